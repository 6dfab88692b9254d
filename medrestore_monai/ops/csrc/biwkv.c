/* Bi-WKV attention over the pixels of an image, forward and backward, on the CPU. Plain C, called through ctypes.

   y_t = N_t / D_t, D_t = sum_{s != t} exp(-(|t - s| - 1) w) e^{k_s} + e^u e^{k_t}, N_t the same with e^{k_s} v_s.
   A prefix sum, a suffix sum and the token itself, each a linear recurrence. The sequence is cut into chunks:
   sums over each chunk (in parallel), carries between chunks (short, in double), then each chunk once more with
   what enters it from both sides (in parallel). Channels lie along the SIMD lanes. Chunks depend on the shape
   only and every sum has a fixed order, so that results do not depend on the number of threads.

   Columns are scanned where they lie: only the distance between tokens differs. */

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define CHUNK 64 /* most tokens in a chunk */
#define ROWS 4 /* tokens worked on at once, in registers */
#define WIDTH 96 /* values of one token, or of neighboring tokens, in a tile */
#define AHEAD 16 /* tokens from what is read to what is prefetched */
#define PIECE 1024 /* tokens of which one task finds the largest key */
#define PADDING 16 /* channels in the workspaces are padded to a multiple of this */
#define LIMIT 60.0 /* largest max|w| T + max|u| of the fast path */

/* Keys more than this below the largest one of their channel count as this far below: a weight of e^-80 against
   at least e^-60, and no denormal numbers. */
#define FLOOR -80.0f

/* (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, largest relative error of e^r 3e-9 */
#define Q0 0.49999994f
#define Q1 0.16666521f
#define Q2 0.04166839f
#define Q3 0.00836871f
#define Q4 0.00138146f

#define MAX_THREADS 32
#define STACK (1 << 20) /* bytes of stack of a thread; some systems give too little for the scratch memory */
#define THREAD_WORK (1 << 18) /* values below which another thread costs more than it gives */

enum { OUTSIDE = 1, NO_MEMORY = 2 }; /* errors: decays or bonuses beyond LIMIT; out of memory */

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

typedef struct {
    /* arguments, as in biwkv_forward and biwkv_backward */
    const float *w, *u;
    const void *k, *v, *gy;
    void *y, *gk, *gv;
    float *states, *grad_states;
    int64_t batch, channels;
    /* the sequence: `lines` stretches of `line_length` equally spaced tokens, each cut into `line_chunks` chunks */
    int64_t tokens, lines, line_length, line_stride, token_stride, line_chunks, chunks, short_length;
    /* chunks of neighboring lines, or some channels of a chunk, are worked on together: a tile */
    int64_t tile_lines, tile_channels, line_tiles, channel_tiles, tiles;
    int64_t padded, pieces;
    /* the largest key of each channel, (B, padded), and of pieces of it */
    float *tops, *partial;
    /* what `carry` works on: states or grad_states */
    float *carried;
    int64_t carried_stride;
    /* per channel (padded): e^{-w l} for l = 0..CHUNK-1, e^{-w}, e^u, and e^{-w l} of the two lengths of chunks */
    float *power, *high, *bonus;
    double *decay;
} Call;

typedef struct {
    int64_t base, state, grad_state, line_state, top; /* offsets: first token, its states, those of the next line */
    int64_t channel, channel_end;
    int lines, length;
} Tile;

typedef void (*Phase)(const Call *c, int64_t begin, int64_t end);

typedef struct {
    int lanes;
    Phase largest, totals, carry, mix, grad_totals, grad;
} Phases;

static inline int64_t chunk_start(const Call *c, int64_t part) { return part * c->line_length / c->line_chunks; }

static inline int64_t chunk_length(const Call *c, int64_t chunk) {
    const int64_t part = chunk % c->line_chunks;
    return chunk_start(c, part + 1) - chunk_start(c, part);
}

/* The i-th tile in the order in which they lie in memory. */
static inline Tile locate(const Call *c, int64_t i) {
    const int64_t image = i / c->tiles, channel = i % c->channel_tiles * c->tile_channels;
    const int64_t line = i / c->channel_tiles % c->line_tiles * c->tile_lines;
    const int64_t part = i % c->tiles / (c->channel_tiles * c->line_tiles), start = chunk_start(c, part);
    const int64_t chunk = line * c->line_chunks + part;
    Tile t;
    t.base = image * c->tokens * c->channels + line * c->line_stride + start * c->token_stride;
    t.state = (image * (4 * c->chunks + 1) + 4 * chunk) * c->padded;
    t.grad_state = (image * c->chunks + chunk) * 4 * c->padded;
    t.line_state = 4 * c->line_chunks * c->padded;
    t.top = image * (4 * c->chunks + 1) * c->padded;
    t.channel = channel;
    t.channel_end = channel + c->tile_channels < c->channels ? channel + c->tile_channels : c->channels;
    t.lines = (int)(c->lines - line < c->tile_lines ? c->lines - line : c->tile_lines);
    t.length = (int)(chunk_start(c, part + 1) - start);
    return t;
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define F(name) JOIN(name##_, VARIANT)
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(isa) PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(isa) PRAGMA(GCC push_options) PRAGMA(GCC target(isa))
#define TARGET_END PRAGMA(GCC pop_options)
#endif

#define LANES 4
#define VARIANT generic
#define STORE_BF16 0
#include "biwkv_sweeps.h"
#define VARIANT generic_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
#undef LANES

#ifdef __x86_64__
#include <immintrin.h>

TARGET_BEGIN("avx2,fma")
#define LANES 8
#define VARIANT avx2
#define STORE_BF16 0
#include "biwkv_sweeps.h"
#define VARIANT avx2_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
#undef LANES
TARGET_END

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define LANES 16
#define VARIANT avx512
#define STORE_BF16 0
#include "biwkv_sweeps.h"
#define VARIANT avx512_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
#undef LANES
TARGET_END
#endif

enum { GENERIC, AVX2, AVX512 };

/* The widest instruction set that this machine has. */
EXPORT int biwkv_widest(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return GENERIC;
}

static const Phases *phases_of(int isa, int bf16) {
#ifdef __x86_64__
    if (isa == AVX512) return bf16 ? &phases_avx512_bf16 : &phases_avx512;
    if (isa == AVX2) return bf16 ? &phases_avx2_bf16 : &phases_avx2;
#endif
    (void)isa;
    return bf16 ? &phases_generic_bf16 : &phases_generic;
}

typedef struct {
    Phase phase;
    const Call *call;
    int64_t total, grain, taken;
} Work;

static void *worker(void *argument) {
    Work *work = argument;
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&work->taken, work->grain, __ATOMIC_RELAXED);
        if (begin >= work->total) return NULL;
        const int64_t end = begin + work->grain < work->total ? begin + work->grain : work->total;
        work->phase(work->call, begin, end);
    }
}

/* Run a phase on `threads` threads, made for it and gone after it: nothing is left behind that a fork could break, and no
   second OpenMP runtime beside the one of PyTorch. */
static void run(Phase phase, const Call *call, int64_t total, int threads) {
    Work work = {phase, call, total, total / (8 * threads) + 1, 0};
    pthread_t made[MAX_THREADS];
    pthread_attr_t attributes;
    int count = 0;
    if (threads > 1 && pthread_attr_init(&attributes) == 0) {
        pthread_attr_setstacksize(&attributes, STACK);
        while (count < threads - 1 && pthread_create(&made[count], &attributes, worker, &work) == 0) count++;
        pthread_attr_destroy(&attributes);
    }
    worker(&work);
    while (count > 0) pthread_join(made[--count], NULL);
}

static int within_limit(const float *w, const float *u, int64_t channels, int64_t tokens) {
    double most_w = 0, most_u = 0;
    for (int64_t i = 0; i < channels; i++) {
        if (!(fabs(w[i]) <= most_w)) most_w = fabs(w[i]);
        if (!(fabs(u[i]) <= most_u)) most_u = fabs(u[i]);
    }
    return most_w * (double)tokens + most_u <= LIMIT;
}

/* Fill in the geometry and the tables; 0 where memory is short. */
static int prepare(Call *c, int64_t height, int64_t width, int columns) {
    const int64_t channels = c->channels;
    c->tokens = height * width;
    c->lines = columns ? width : 1;
    c->line_length = columns ? height : c->tokens;
    c->line_stride = columns ? channels : 0;
    c->token_stride = columns ? width * channels : channels;
    c->line_chunks = (c->line_length + CHUNK - 1) / CHUNK;
    c->chunks = c->lines * c->line_chunks;
    c->short_length = c->line_length / c->line_chunks;
    c->padded = (channels + PADDING - 1) / PADDING * PADDING;
    c->pieces = (c->tokens + PIECE - 1) / PIECE;

    c->tile_channels = channels < WIDTH ? channels : WIDTH;
    c->tile_lines = WIDTH / c->padded < 1 ? 1 : WIDTH / c->padded;
    c->channel_tiles = (channels + c->tile_channels - 1) / c->tile_channels;
    c->line_tiles = (c->lines + c->tile_lines - 1) / c->tile_lines;
    c->tiles = c->line_chunks * c->line_tiles * c->channel_tiles;

    const int64_t pad = c->padded;
    c->tops = c->states + 4 * c->chunks * pad;
    c->decay = calloc((size_t)pad, 2 * sizeof(double) + (size_t)(CHUNK + 2 + c->batch * c->pieces) * sizeof(float));
    if (!c->decay) return 0;
    c->power = (float *)(c->decay + 2 * pad);
    c->high = c->power + CHUNK * pad;
    c->bonus = c->high + pad;
    c->partial = c->bonus + pad;
    for (int64_t i = 0; i < channels; i++) {
        const double w = c->w[i], decay = exp(-w);
        c->high[i] = (float)decay;
        c->bonus[i] = (float)exp(c->u[i]);
        c->decay[i] = exp(-w * (double)c->short_length);
        c->decay[pad + i] = exp(-w * (double)(c->short_length + 1));
        double power = 1;
        for (int64_t l = 0; l <= c->short_length && l < CHUNK; l++, power *= decay) c->power[l * pad + i] = (float)power;
    }
    return 1;
}

/* Largest key of every channel from those of the pieces. */
static void finish_largest(const Call *c) {
    const int64_t pad = c->padded;
    for (int64_t image = 0; image < c->batch; image++) {
        float *top = c->tops + image * (4 * c->chunks + 1) * pad;
        const float *partial = c->partial + image * c->pieces * pad;
        for (int64_t i = 0; i < pad; i++) top[i] = partial[i];
        for (int64_t n = 1; n < c->pieces; n++)
            for (int64_t i = 0; i < pad; i++) top[i] = top[i] > partial[n * pad + i] ? top[i] : partial[n * pad + i];
    }
}

static int useful_threads(const Call *c, int threads) {
    const int64_t most = c->batch * c->tokens * c->channels / THREAD_WORK + 1;
    if (threads > most) threads = (int)most;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    return threads < 1 ? 1 : threads;
}

/* y (B, H, W, C) of w, u (C) and k, v (B, H, W, C); the sequence runs along rows, or along columns.
   states keeps what the backward pass needs: per image 4 rows of `padded` floats a chunk and one of the largest keys.
   Returns 0, or OUTSIDE or NO_MEMORY. */
EXPORT int biwkv_forward(const float *w, const float *u, const void *k, const void *v, void *y, float *states,
                         int64_t batch, int64_t height, int64_t width, int64_t channels, int columns, int bf16,
                         int isa, int threads) {
    if (!within_limit(w, u, channels, height * width)) return OUTSIDE;
    Call c = {.w = w, .u = u, .k = k, .v = v, .y = y, .states = states, .batch = batch, .channels = channels};
    if (!prepare(&c, height, width, columns)) return NO_MEMORY;
    const Phases *p = phases_of(isa, bf16);
    threads = useful_threads(&c, threads);
    run(p->largest, &c, batch * c.pieces, threads);
    finish_largest(&c);
    run(p->totals, &c, batch * c.tiles, threads);
    c.carried = states;
    c.carried_stride = (4 * c.chunks + 1) * c.padded;
    run(p->carry, &c, 2 * batch * c.padded / p->lanes, threads);
    run(p->mix, &c, batch * c.tiles, threads);
    free(c.decay);
    return 0;
}

/* The chunks' shares of the gradients of w and u, added up in double and in one order. */
static void finish_grad(const Call *c, float *gw, float *gu, double *sums) {
    const int64_t pad = c->padded;
    for (int64_t n = 0; n < c->batch * c->chunks; n++) {
        const float *share = c->grad_states + 4 * n * pad;
        for (int64_t i = 0; i < 2 * pad; i++) sums[i] += share[i];
    }
    for (int64_t i = 0; i < c->channels; i++) {
        gw[i] = (float)(-exp(-(double)c->w[i]) * sums[i]);
        gu[i] = (float)(exp(c->u[i]) * sums[pad + i]);
    }
}

/* Gradients of all four inputs from the gradient gy of y; `states` as biwkv_forward left it. */
EXPORT int biwkv_backward(const float *w, const float *u, const void *k, const void *v, const void *gy, float *states,
                          float *gw, float *gu, void *gk, void *gv, int64_t batch, int64_t height, int64_t width,
                          int64_t channels, int columns, int bf16, int isa, int threads) {
    if (!within_limit(w, u, channels, height * width)) return OUTSIDE;
    Call c = {.w = w, .u = u, .k = k, .v = v, .gy = gy, .gk = gk, .gv = gv, .states = states};
    c.batch = batch;
    c.channels = channels;
    if (!prepare(&c, height, width, columns)) return NO_MEMORY;
    c.grad_states = malloc((size_t)(4 * batch * c.chunks * c.padded) * sizeof(float));
    double *sums = calloc((size_t)(2 * c.padded), sizeof(double));
    if (c.grad_states && sums) {
        const Phases *p = phases_of(isa, bf16);
        threads = useful_threads(&c, threads);
        run(p->grad_totals, &c, batch * c.tiles, threads);
        c.carried = c.grad_states;
        c.carried_stride = 4 * c.chunks * c.padded;
        run(p->carry, &c, 2 * batch * c.padded / p->lanes, threads);
        run(p->grad, &c, batch * c.tiles, threads);
        finish_grad(&c, gw, gu, sums);
    }
    const int failed = !c.grad_states || !sums;
    free(sums);
    free(c.grad_states);
    free(c.decay);
    return failed ? NO_MEMORY : 0;
}

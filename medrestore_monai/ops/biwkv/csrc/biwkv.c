/* Re-WKV on the CPU: scans of Bi-WKV attention over the pixels of an image, along rows and columns in turn, and a
   gate; forward and backward. Plain C, called through ctypes.

   One scan: y_t = N_t / D_t, D_t = sum_{s != t} exp(-(|t - s| - 1) w) e^{k_s} + e^u e^{k_t}, N_t the same with
   e^{k_s} v_s. A prefix sum, a suffix sum and the token itself, each a linear recurrence. The sequence is cut into
   chunks: sums over each chunk (in parallel), carries between chunks (short, in double), then each chunk once more with
   what enters it from both sides (in parallel). Channels lie along the SIMD lanes. Chunks depend on the shape
   only and every sum has a fixed order, so that results do not depend on the number of threads.

   Columns are scanned where they lie: only the distance between tokens differs. A scan along rows gathers the sums over
   the chunks of the columns' scan that comes next, from what it has in the cache anyhow. */

#define _DEFAULT_SOURCE /* syscall */

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 64 /* most tokens in a chunk */
#define WIDTH 192 /* most values of one token, or of neighboring columns, in a tile */
#define AHEAD 8 /* tokens from what is read to what is prefetched */
#define PADDING 16 /* channels in the workspaces are padded to a multiple of this */
#define LIMIT 60.0 /* largest max|w| T + max|u| of the fast path */
#define LARGE (16 << 20) /* bytes of a result that no cache keeps: it is written past the caches */

/* Keys more than this (base 2) below the largest one of their channel count as this far below: a weight of e^-80
   against at least e^-60, and no denormal numbers. */
#define FLOOR -115.0f
#define LOG2E 1.44269504f

/* (2^f - 1) / f on |f| <= 1/2, largest relative error of 2^f 9e-8 */
#define Q0 0.693146978f
#define Q1 0.240222421f
#define Q2 0.0555073374f
#define Q3 0.00967151269f
#define Q4 0.00132647272f

#define MAX_THREADS 64
#define STACK (2 << 20) /* bytes of stack of a thread; some systems give too little for the scratch memory */
#define THREAD_WORK (1 << 18) /* values below which another thread costs more than it gives */

enum { NO_MEMORY = 1, OUT_OF_RANGE = 2 }; /* errors */

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* How a sequence lies in memory: `lines` stretches of `line_length` equally spaced tokens, each cut into
   `line_chunks` chunks. Some channels of a chunk, or of chunks of neighboring columns, are worked on together: a tile. */
typedef struct {
    int columns;
    int64_t lines, line_length, line_stride, token_stride, line_chunks, chunks, short_length;
    int64_t tile_lines, tile_channels, line_tiles, channel_tiles, tiles;
} Grid;

typedef struct Scan {
    Grid grid;
    int64_t batch, tokens, channels, padded;
    const float *w, *u;
    const void *k, *v, *r, *gy; /* r: only of the last scan */
    void *y, *gr, *gk, *gv;
    int add_gk; /* whether gk holds the share of another scan */
    int past_caches;
    /* per chunk 4 rows of `padded` floats: its sums, then what enters it; the same of the gradients */
    float *states, *grad_states;
    float *tops, *chunk_tops; /* the largest key of each channel, (B, padded), and of each chunk while not known */
    float *carried; /* what `carry` works on: states or grad_states */
    /* per channel (padded): e^{-w l} for l = 0..CHUNK-1, e^{-w}, e^u, and e^{-w l} of the two lengths of chunks */
    float *power, *high, *bonus;
    double *decay, *shares; /* shares: of the gradients of w and u, (2, B, C), by the robust form */
    int *failed; /* set by the robust form where memory is short */
    const struct Scan *next; /* the scan along columns whose sums this one gathers */
    const struct Block *block; /* around it; then k holds weights, v weights times values, r the gate itself */
} Scan;

typedef struct {
    int64_t base, state, line_state, top; /* offsets: first token, its states, those of the next line, largest keys */
    int64_t channel, channel_end;
    int lines, length;
} Tile;

typedef void (*Phase)(const Scan *c, int64_t begin, int64_t end);

#include "rwkv_block.h"

typedef struct {
    int lanes;
    Phase totals, carry, mix, gather, grad_totals, grad, project, output, channels;
    void (*pack)(const float *matrix, const float *scale, Matrix *b);
} Phases;

static inline int64_t chunk_start(const Grid *g, int64_t part) { return part * g->line_length / g->line_chunks; }

static inline int64_t chunk_length(const Grid *g, int64_t chunk) {
    const int64_t part = chunk % g->line_chunks;
    return chunk_start(g, part + 1) - chunk_start(g, part);
}

static Tile tile_at(const Scan *c, int64_t image, int64_t line, int64_t part, int64_t channel_tile) {
    const Grid *g = &c->grid;
    const int64_t start = chunk_start(g, part), chunk = line * g->line_chunks + part;
    Tile t;
    t.base = image * c->tokens * c->channels + line * g->line_stride + start * g->token_stride;
    t.state = (image * g->chunks + chunk) * 4 * c->padded;
    t.line_state = 4 * g->line_chunks * c->padded;
    t.top = image * c->padded;
    t.channel = channel_tile * g->tile_channels;
    t.channel_end = t.channel + g->tile_channels < c->channels ? t.channel + g->tile_channels : c->channels;
    t.lines = (int)(g->lines - line < g->tile_lines ? g->lines - line : g->tile_lines);
    t.length = (int)(chunk_start(g, part + 1) - start);
    return t;
}

/* The i-th tile in the order in which they lie in memory. */
static Tile locate(const Scan *c, int64_t i) {
    const Grid *g = &c->grid;
    const int64_t image = i / g->tiles, channel_tile = i % g->channel_tiles, j = i % g->tiles / g->channel_tiles;
    if (g->columns) return tile_at(c, image, j % g->line_tiles * g->tile_lines, j / g->line_tiles, channel_tile);
    return tile_at(c, image, j / g->line_chunks, j % g->line_chunks, channel_tile);
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

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define PRODUCTS_BF16 0
#define TILES 0
#define LANES 4
#ifdef __aarch64__
#define FUSED 1 /* multiplies and adds in one rounding */
#else
#define FUSED 0
#endif
#define VARIANT generic
#define STORE_BF16 0
#include "biwkv_sweeps.h"
#define VARIANT generic_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
#undef LANES
#undef FUSED
#define FUSED 1

#ifdef __x86_64__
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
#undef PRODUCTS_BF16
TARGET_END

#define PRODUCTS_BF16 1
TARGET_BEGIN("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define VARIANT avx512_products_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
TARGET_END

#if defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define TILES_COMPILE 1
#undef TILES
#define TILES 1
TARGET_BEGIN("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define VARIANT amx_bf16
#define STORE_BF16 1
#include "biwkv_sweeps.h"
TARGET_END
#endif
#undef LANES
#endif

#include "biwkv_isa.h"

static const Phases *phases_of(int isa, int bf16) {
#ifdef __x86_64__
#if TILES_COMPILE
    if (isa == AMX_BF16 && bf16) return &phases_amx_bf16;
#endif
    if (isa >= AVX512_BF16 && bf16) return &phases_avx512_products_bf16;
    if (isa >= AVX512) return bf16 ? &phases_avx512_bf16 : &phases_avx512;
    if (isa == AVX2) return bf16 ? &phases_avx2_bf16 : &phases_avx2;
#endif
    (void)isa;
    return bf16 ? &phases_generic_bf16 : &phases_generic;
}

typedef struct {
    Phase phase;
    const Scan *scan;
    int64_t total, grain, taken;
} Work;

static void *worker(void *argument) {
    Work *work = argument;
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&work->taken, work->grain, __ATOMIC_RELAXED);
        if (begin >= work->total) return NULL;
        const int64_t end = begin + work->grain < work->total ? begin + work->grain : work->total;
        work->phase(work->scan, begin, end);
    }
}

/* Run a phase on `threads` threads, made for it and gone after it: nothing is left behind that a fork could break, and no
   second OpenMP runtime beside the one of PyTorch. */
static void run(Phase phase, const Scan *scan, int64_t total, int threads) {
    Work work = {phase, scan, total, threads > 1 ? total / (8 * threads) + 1 : total, 0};
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

#include "biwkv_robust.h"

static double reach(const Scan *c) {
    double most_w = 0, most_u = 0;
    for (int64_t i = 0; i < c->channels; i++) {
        if (!(fabs(c->w[i]) <= most_w)) most_w = fabs(c->w[i]);
        if (!(fabs(c->u[i]) <= most_u)) most_u = fabs(c->u[i]);
    }
    return most_w * (double)c->tokens + most_u;
}

static int within_limit(const Scan *c) { return reach(c) <= LIMIT; }

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static Grid make_grid(int64_t height, int64_t width, int64_t channels, int columns) {
    Grid g;
    g.columns = columns;
    g.lines = columns ? width : height;
    g.line_length = columns ? height : width;
    g.line_stride = columns ? channels : width * channels;
    g.token_stride = columns ? width * channels : channels;
    g.line_chunks = ceil_div(g.line_length, CHUNK);
    g.chunks = g.lines * g.line_chunks;
    g.short_length = g.line_length / g.line_chunks;
    const int64_t padded = ceil_div(channels, PADDING) * PADDING;
    g.tile_channels = channels < WIDTH ? channels : WIDTH;
    g.tile_lines = columns && padded <= WIDTH ? WIDTH / padded : 1;
    g.channel_tiles = ceil_div(channels, g.tile_channels);
    g.line_tiles = ceil_div(g.lines, g.tile_lines);
    g.tiles = g.line_chunks * g.line_tiles * g.channel_tiles;
    return g;
}

/* Fill in the tables; 0 where memory is short. */
static int prepare(Scan *c) {
    const int64_t pad = c->padded, longest = c->grid.short_length < CHUNK ? c->grid.short_length + 1 : CHUNK;
    c->decay = calloc((size_t)pad, 2 * sizeof(double) + (CHUNK + 2) * sizeof(float));
    if (!c->decay) return 0;
    c->power = (float *)(c->decay + 2 * pad);
    c->high = c->power + CHUNK * pad;
    c->bonus = c->high + pad;
    for (int64_t i = 0; i < c->channels; i++) {
        const double w = c->w[i], decay = exp(-w);
        c->high[i] = (float)decay;
        c->bonus[i] = (float)exp(c->u[i]);
        c->decay[i] = exp(-w * (double)c->grid.short_length);
        c->decay[pad + i] = exp(-w * (double)(c->grid.short_length + 1));
        double power = 1;
        for (int64_t l = 0; l < longest; l++, power *= decay) c->power[l * pad + i] = (float)power;
    }
    return 1;
}

/* Largest key of every channel from those of the chunks. */
static void finish_tops(const Scan *c) {
    const int64_t pad = c->padded;
    for (int64_t image = 0; image < c->batch; image++) {
        float *top = c->tops + image * pad;
        const float *next = c->chunk_tops + image * c->grid.chunks * pad;
        for (int64_t i = 0; i < c->channels; i++) top[i] = next[i];
        for (int64_t n = 1; n < c->grid.chunks; n++) {
            next += pad;
            for (int64_t i = 0; i < c->channels; i++) top[i] = top[i] > next[i] ? top[i] : next[i];
        }
    }
}

static int useful_threads(const Scan *c, int threads) {
    const int64_t most = c->batch * c->tokens * c->channels / THREAD_WORK + 1;
    if (threads > most) threads = (int)most;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    return threads < 1 ? 1 : threads;
}

/* What all scans of a call have in common. */
typedef struct {
    const float *decay, *first; /* (scans, C) */
    const void *k, *v, *r; /* (B, H, W, C); r, the gate, may be NULL */
    void *mids; /* (scans - 1, B, H, W, C): results of all scans but the last; NULL: kept in y only */
    float *states; /* what the backward pass needs; see state_offset */
    int64_t batch, height, width, channels;
    int scans, columns, bf16, isa, threads;
    const Block *block;
} Call;

static int64_t padded_channels(const Call *a) { return ceil_div(a->channels, PADDING) * PADDING; }

static int along_columns(const Call *a, int scan) { return (scan % 2 != 0) != (a->columns != 0); }

/* Where the states of a scan begin: the largest keys come first, then 4 rows a chunk, scan after scan. */
static int64_t state_offset(const Call *a, int scan) {
    int64_t rows = a->batch;
    for (int i = 0; i < scan; i++) {
        const int columns = along_columns(a, i);
        rows += 4 * a->batch * (columns ? a->width * ceil_div(a->height, CHUNK) : a->height * ceil_div(a->width, CHUNK));
    }
    return rows * padded_channels(a);
}

static Scan make_scan(const Call *a, int scan) {
    Scan c = {.batch = a->batch, .tokens = a->height * a->width, .channels = a->channels};
    /* an image of one line is a sequence, whichever way it lies */
    const int line = !a->block && (a->height == 1 || a->width == 1);
    c.grid = make_grid(line ? 1 : a->height, line ? c.tokens : a->width, a->channels, !line && along_columns(a, scan));
    c.padded = padded_channels(a);
    c.w = a->decay + scan * a->channels;
    c.u = a->first + scan * a->channels;
    c.k = a->k;
    const int64_t bytes = a->batch * c.tokens * a->channels * (a->bf16 ? 2 : 4);
    c.v = scan == 0 ? a->v : a->mids ? (const char *)a->mids + (scan - 1) * bytes : NULL;
    c.past_caches = bytes >= LARGE;
    c.states = a->states + state_offset(a, scan);
    c.tops = a->states;
    c.block = a->block;
    return c;
}

/* The gated result (B, H, W, C) of all scans, y. `mids` and `states` are written for the backward pass. `states` has
   room for as many floats as biwkv_states says. Returns 0 or NO_MEMORY. */
EXPORT int biwkv_forward(const float *decay, const float *first, const void *k, const void *v, const void *r, void *y,
                         void *mids, float *states, int64_t batch, int64_t height, int64_t width, int64_t channels,
                         int scans, int columns, int bf16, int isa, int threads) {
    const Call a = {decay, first, k, v, r, mids, states, batch, height, width, channels, scans, columns, bf16, isa, threads, NULL};
    const Phases *p = phases_of(isa, bf16);
    const int64_t bytes = batch * height * width * channels * (bf16 ? 2 : 4);
    int tops_known = 0, gathered = 0, failed = 0;
    for (int i = 0; i < scans && !failed; i++) {
        Scan c = make_scan(&a, i), next = {0};
        const int last = i == scans - 1, team = useful_threads(&c, threads);
        if (!c.v) c.v = y;
        c.y = last || !mids ? y : (char *)mids + i * bytes;
        c.r = last ? r : NULL;
        if (!within_limit(&c)) {
            failed = !robust_forward(&c, bf16, team);
            gathered = 0;
            continue;
        }
        if (!prepare(&c)) return NO_MEMORY;
        if (!last && !c.grid.columns) {
            next = make_scan(&a, i + 1);
            if (next.grid.columns && within_limit(&next) && prepare(&next)) c.next = &next;
        }
        if (!tops_known) failed = !(c.chunk_tops = malloc((size_t)(batch * c.grid.chunks * c.padded) * sizeof(float)));
        if (!failed) {
            if (!gathered) run(p->totals, &c, batch * c.grid.tiles, team);
            if (!tops_known) finish_tops(&c);
            c.carried = c.states;
            run(p->carry, &c, 2 * batch * c.padded / p->lanes, team);
            if (c.next) run(p->gather, &c, batch * next.grid.line_chunks * c.grid.line_chunks * c.grid.channel_tiles, team);
            else run(p->mix, &c, batch * c.grid.tiles, team);
        }
        tops_known = 1;
        gathered = c.next != NULL;
        free(c.chunk_tops);
        free(c.decay);
        free(next.decay);
    }
    return failed ? NO_MEMORY : 0;
}

/* The chunks' shares of the gradients of w and u, added up in double and in one order. */
static void finish_grad(const Scan *c, float *gw, float *gu, double *sums) {
    const int64_t pad = c->padded;
    for (int64_t n = 0; n < c->batch * c->grid.chunks; n++) {
        const float *share = c->grad_states + 4 * n * pad;
        for (int64_t i = 0; i < c->channels; i++) {
            sums[i] += share[i];
            sums[pad + i] += share[pad + i];
        }
    }
    for (int64_t i = 0; i < c->channels; i++) {
        gw[i] = (float)(-exp(-(double)c->w[i]) * sums[i]);
        gu[i] = (float)(exp(c->u[i]) * sums[pad + i]);
    }
}

/* Gradients of all inputs from the gradient gy of y; `mids` and `states` as biwkv_forward left them. gr is NULL where r
   is. From scan to scan the gradient of the values stays in gv. */
EXPORT int biwkv_backward(const float *decay, const float *first, const void *k, const void *v, const void *r,
                          const void *gy, void *mids, float *states, float *gdecay, float *gfirst, void *gk, void *gv,
                          void *gr, int64_t batch, int64_t height, int64_t width, int64_t channels, int scans,
                          int columns, int bf16, int isa, int threads) {
    const Call a = {decay, first, k, v, r, mids, states, batch, height, width, channels, scans, columns, bf16, isa, threads, NULL};
    const Phases *p = phases_of(isa, bf16);
    const int64_t pad = padded_channels(&a);
    const int64_t rows = 4 * batch * (height * ceil_div(width, CHUNK) > width * ceil_div(height, CHUNK)
                                          ? height * ceil_div(width, CHUNK) : width * ceil_div(height, CHUNK));
    float *grad_states = malloc((size_t)(rows * pad) * sizeof(float));
    double *sums = malloc((size_t)(2 * pad) * sizeof(double));
    int failed = !grad_states || !sums;
    for (int i = scans - 1; i >= 0 && !failed; i--) {
        Scan c = make_scan(&a, i);
        const int last = i == scans - 1, team = useful_threads(&c, threads);
        float *gw = gdecay + i * channels, *gu = gfirst + i * channels;
        c.grad_states = c.carried = grad_states;
        c.gy = last ? gy : gv;
        c.r = last ? r : NULL;
        c.gr = gr;
        c.gk = gk;
        c.gv = gv;
        c.add_gk = !last;
        if (!within_limit(&c)) {
            failed = !robust_backward(&c, gw, gu, bf16, team);
            continue;
        }
        if (!prepare(&c)) {
            failed = 1;
            break;
        }
        for (int64_t n = 0; n < 2 * pad; n++) sums[n] = 0;
        run(p->grad_totals, &c, batch * c.grid.tiles, team);
        if (c.r) c.gy = gv;
        run(p->carry, &c, 2 * batch * pad / p->lanes, team);
        run(p->grad, &c, batch * c.grid.tiles, team);
        finish_grad(&c, gw, gu, sums);
        free(c.decay);
    }
    free(sums);
    free(grad_states);
    return failed ? NO_MEMORY : 0;
}

#include "rwkv_block_calls.h"

/* Sweeps of the Bi-WKV kernel, written once with vector types and included by biwkv.c for every
   instruction set and storage type. Expects LANES (floats per register), VARIANT (the suffix that F adds to names)
   and STORE_BF16 (1: k, v, y and their gradients are bfloat16 in memory; 0: float). */

#if STORE_BF16
#define STORE_T uint16_t
#else
#define STORE_T float
#endif

typedef float F(vf) __attribute__((vector_size(4 * LANES)));
typedef float F(vf_mem) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t F(vi) __attribute__((vector_size(4 * LANES)));
typedef uint32_t F(vu) __attribute__((vector_size(4 * LANES)));
typedef uint16_t F(vh_mem) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define VF F(vf)
#define INLINE static inline __attribute__((always_inline))

INLINE VF F(spread)(float x) { return (VF){0} + x; }

INLINE VF F(load_f)(const float *p) { return *(const F(vf_mem) *)p; }

INLINE void F(store_f)(float *p, VF x) { *(F(vf_mem) *)p = x; }

/* first n lanes from memory, the others zero */
INLINE VF F(load_part_f)(const float *p, int n) {
    if (n == LANES) return F(load_f)(p);
    VF x = {0};
    __builtin_memcpy(&x, p, 4 * (size_t)n);
    return x;
}

INLINE VF F(load)(const STORE_T *p, int n) {
#if STORE_BF16
    F(vh_mem) half = {0};
    if (n == LANES) half = *(const F(vh_mem) *)p;
    else __builtin_memcpy(&half, p, 2 * (size_t)n);
    return (VF)(__builtin_convertvector(half, F(vu)) << 16);
#else
    return F(load_part_f)(p, n);
#endif
}

INLINE void F(store)(STORE_T *p, VF x, int n) {
#if STORE_BF16 /* round to nearest, ties to even */
    F(vu) bits = (F(vu))x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    F(vh_mem) half = __builtin_convertvector(bits, F(vh_mem));
    if (n == LANES) *(F(vh_mem) *)p = half;
    else __builtin_memcpy(p, &half, 2 * (size_t)n);
#else
    if (n == LANES) F(store_f)(p, x);
    else __builtin_memcpy(p, &x, 4 * (size_t)n);
#endif
}

/* the larger of each lane; where b is not a number, b, so that a NaN is never lost */
INLINE VF F(max)(VF a, VF b) {
#if LANES == 16
    return (VF)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (VF)_mm256_max_ps((__m256)a, (__m256)b);
#else
    VF y;
    for (int i = 0; i < LANES; i++) y[i] = a[i] > b[i] ? a[i] : b[i];
    return y;
#endif
}

/* e^x for x <= 0, within 1 ulp and exactly 1 at 0; below FLOOR it stays e^FLOOR (see biwkv.c) */
INLINE VF F(exp)(VF x) {
    x = F(max)(F(spread)(FLOOR), x);
    const VF magic = F(spread)(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    VF shifted = x * 1.44269504f + magic;
    VF n = shifted - magic;
    VF r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    VF q = F(spread)(Q4);
    q = q * r + Q3;
    q = q * r + Q2;
    q = q * r + Q1;
    q = q * r + Q0;
    VF p = (q * (r * r) + r) + 1.0f;
    return (VF)((F(vi))p + ((F(vi))shifted << 23));
}

/* The tile of c that comes i-th, a row of it, and one of its registers: the words used below.
   A unit is one register of channels of one line; tiles are walked ROWS tokens at a time, all units of these, so that
   memory is read in stretches of a tile's width. Rows of a column may all fall into one set of the cache: nothing is
   read twice from there, but kept in scratch memory. */
typedef struct {
    VF e[ROWS], ev[ROWS];
} F(Weights);

typedef struct {
    VF one, v; /* a sum of weights, or of g, and the same with values, or of h */
} F(Pair);

#define UNITS (WIDTH / LANES)
#define STEPS (CHUNK / ROWS)
#define WEIGHTS F(Weights)
#define PAIR F(Pair)

INLINE PAIR F(load_pair)(const float *p, int64_t pad) { return (PAIR){F(load_f)(p), F(load_f)(p + pad)}; }

INLINE void F(store_pair)(float *p, int64_t pad, PAIR x) {
    F(store_f)(p, x.one);
    F(store_f)(p + pad, x.v);
}

INLINE PAIR F(add_scaled)(PAIR x, VF scale, PAIR y) { return (PAIR){scale * y.one + x.one, scale * y.v + x.v}; }

/* Call body(q, ch, offset, n) for every unit: its number, first channel, place in a row, lanes in use. */
#define FOR_UNITS(t)                                                                                        \
    for (int q = 0, line = 0; line < (t).lines; line++)                                                     \
        for (int64_t ch = (t).channel, offset = line * c->line_stride; ch < (t).channel_end; ch += LANES, q++)

#define LANES_AT(ch) ((int)(c->channels - (ch) < LANES ? c->channels - (ch) : LANES))

/* One function for all, made twice: for whole registers and ROWS rows known to the compiler, and for the rest. */
#define SPECIALIZED(rows, n, ...)                 \
    do {                                          \
        if ((rows) == ROWS && (n) == LANES) {     \
            enum { rows_ = ROWS, n_ = LANES };    \
            __VA_ARGS__;                          \
        } else {                                  \
            const int rows_ = (rows), n_ = (n);   \
            __VA_ARGS__;                          \
        }                                         \
    } while (0)

INLINE void F(weigh)(WEIGHTS *x, const STORE_T *k, const STORE_T *v, int64_t step, VF top, int rows, int n) {
    for (int r = 0; r < rows; r++) {
        x->e[r] = F(exp)(F(load)(k + r * step, n) - top);
        x->ev[r] = x->e[r] * F(load)(v + r * step, n);
    }
}

INLINE void F(prefetch)(const STORE_T *p, int64_t step) {
    for (int r = 0; r < ROWS; r++) __builtin_prefetch(p + r * step);
}

INLINE void F(prefetch_store)(const STORE_T *p, int64_t step) {
    for (int r = 0; r < ROWS; r++) __builtin_prefetch(p + r * step, 1);
}

/* The states of a tile: few, but each from a new place. */
INLINE void F(prefetch_states)(const Call *c, const float *states, int64_t line_state, int lines, const Tile *t) {
    for (int line = 0; line < lines; line++)
        for (int row = 0; row < 4; row++)
            for (int64_t ch = t->channel; ch < t->channel_end; ch += 16)
                __builtin_prefetch(states + line * line_state + row * c->padded + ch);
}

/* From behind the rows to before them, or the other way: sum = decay * sum + x */
INLINE PAIR F(run_down)(PAIR sum, VF decay, const VF *x, const VF *xv, int rows) {
    for (int r = rows - 1; r >= 0; r--) {
        sum.one = decay * sum.one + x[r];
        sum.v = decay * sum.v + xv[r];
    }
    return sum;
}

INLINE PAIR F(run_up)(PAIR sum, VF decay, const VF *x, const VF *xv, int rows) {
    for (int r = 0; r < rows; r++) {
        sum.one = decay * sum.one + x[r];
        sum.v = decay * sum.v + xv[r];
    }
    return sum;
}

/* Largest key per channel over a piece of an image. */
static void F(largest)(const Call *c, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        const int64_t image = i / c->pieces, first = i % c->pieces * PIECE;
        const int64_t count = c->tokens - first < PIECE ? c->tokens - first : PIECE;
        const STORE_T *k = (const STORE_T *)c->k + (image * c->tokens + first) * c->channels;
        float *out = c->partial + i * c->padded;
        for (int64_t ch = 0; ch < c->channels; ch += LANES) F(store_f)(out + ch, F(load)(k + ch, LANES_AT(ch)));
        for (int64_t t = 0; t < count; t++)
            for (int64_t ch = 0; ch < c->channels; ch += LANES) {
                const int n = LANES_AT(ch);
                F(store_f)(out + ch, F(max)(F(load_f)(out + ch), F(load)(k + t * c->channels + ch, n)));
            }
    }
}

/* Sums of one chunk as seen from just behind its end and just before its start. Decays over more than a few rows come
   from the table: those of a rounded e^{-w} would drift. */
INLINE void F(total_rows)(PAIR *ahead, PAIR *behind, const VF *x, const VF *xv, VF decay, VF to_end, VF to_start,
                          int rows) {
    const PAIR first = {x[0], xv[0]}, last = {x[rows - 1], xv[rows - 1]};
    *ahead = F(add_scaled)(*ahead, to_end, F(run_up)(first, decay, x + 1, xv + 1, rows - 1));
    *behind = F(add_scaled)(*behind, to_start, F(run_down)(last, decay, x, xv, rows - 1));
}

static void F(totals)(const Call *c, int64_t begin, int64_t end) {
    const int64_t step = c->token_stride, pad = c->padded;
    PAIR ahead[UNITS], behind[UNITS];
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(c, i), next = locate(c, i + 1 < end ? i + 1 : i);
        const STORE_T *k = (const STORE_T *)c->k, *v = (const STORE_T *)c->v;
        for (int q = 0; q < UNITS; q++) ahead[q] = behind[q] = (PAIR){{0}, {0}};
        for (int l = 0; l < t.length; l += ROWS) {
            const int rows = t.length - l < ROWS ? t.length - l : ROWS, later = l + AHEAD;
            const int64_t place = t.base + l * step;
            const int64_t soon = later < t.length ? t.base + later * step : next.base + next.channel - t.channel + (later - t.length) * step;
            FOR_UNITS(t) {
                WEIGHTS x;
                const VF top = F(load_f)(c->tops + t.top + ch), decay = F(load_f)(c->high + ch);
                const VF to_start = F(load_f)(c->power + l * pad + ch);
                const VF to_end = F(load_f)(c->power + (t.length - l - rows) * pad + ch);
                const int64_t at = place + offset + ch;
                F(prefetch)(k + soon + offset + ch, step);
                F(prefetch)(v + soon + offset + ch, step);
                SPECIALIZED(rows, LANES_AT(ch), {
                    F(weigh)(&x, k + at, v + at, step, top, rows_, n_);
                    F(total_rows)(&ahead[q], &behind[q], x.e, x.ev, decay, to_end, to_start, rows_);
                });
            }
        }
        FOR_UNITS(t) {
            float *s = c->states + t.state + line * t.line_state + ch;
            (void)offset;
            F(store_pair)(s, pad, ahead[q]);
            F(store_pair)(s + 2 * pad, pad, behind[q]);
        }
    }
}

/* Replace the sums of the chunks by what enters each of them from the left and from the right. In double:
   thousands of decays are multiplied here. Item: image, channel block, direction. */
static void F(carry)(const Call *c, int64_t begin, int64_t end) {
    const int64_t pad = c->padded, blocks = pad / LANES;
    for (int64_t i = begin; i < end; i++) {
        const int backward = (int)(i % 2);
        const int64_t ch = i / 2 % blocks * LANES;
        float *image = c->carried + i / 2 / blocks * c->carried_stride + ch;
        double sum[LANES] = {0}, sum_v[LANES] = {0};
        for (int64_t n = 0; n < c->chunks; n++) {
            const int64_t m = backward ? c->chunks - 1 - n : n;
            const double *decay = c->decay + (chunk_length(c, m) - c->short_length) * pad + ch;
            float *s = image + (4 * m + 2 * backward) * pad;
            const VF add = F(load_f)(s), add_v = F(load_f)(s + pad);
            for (int j = 0; j < LANES; j++) {
                s[j] = (float)sum[j];
                s[pad + j] = (float)sum_v[j];
                sum[j] = sum[j] * decay[j] + add[j];
                sum_v[j] = sum_v[j] * decay[j] + add_v[j];
            }
        }
    }
}

/* From the chunk's end to its start: keep the weights, and what comes from the right at the end of every ROWS rows.
   What enters the chunk is added anew at each: many small decays of a large sum would be rounded away. */
INLINE void F(from_right)(const Call *c, const Tile *tile, int64_t next_base, WEIGHTS (*w)[UNITS], PAIR (*right)[UNITS]) {
    const Tile t = *tile;
    const int64_t step = c->token_stride, pad = c->padded;
    const STORE_T *k = (const STORE_T *)c->k, *v = (const STORE_T *)c->v;
    PAIR own[UNITS];
    for (int q = 0; q < UNITS; q++) own[q] = (PAIR){{0}, {0}};
    const int last = (t.length - 1) / ROWS * ROWS;
    for (int l = last; l >= 0; l -= ROWS) {
        const int rows = t.length - l < ROWS ? t.length - l : ROWS, later = l - AHEAD;
        const int64_t place = t.base + l * step;
        const int64_t soon = later >= 0 ? t.base + later * step : next_base + (last + ROWS + later) * step;
        FOR_UNITS(t) {
            const VF top = F(load_f)(c->tops + t.top + ch), decay = F(load_f)(c->high + ch);
            const VF power = F(load_f)(c->power + (t.length - l - rows) * pad + ch);
            const int64_t at = place + offset + ch;
            WEIGHTS *x = &w[l / ROWS][q];
            F(prefetch)(k + soon + offset + ch, step);
            F(prefetch)(v + soon + offset + ch, step);
            PAIR entering = F(load_pair)(c->states + t.state + line * t.line_state + 2 * pad + ch, pad);
            right[l / ROWS][q] = F(add_scaled)(own[q], power, entering);
            SPECIALIZED(rows, LANES_AT(ch), {
                F(weigh)(x, k + at, v + at, step, top, rows_, n_);
                own[q] = F(run_down)(own[q], decay, x->e, x->ev, rows_);
            });
        }
    }
}

typedef struct {
    PAIR sum[ROWS]; /* numerator (v) and denominator (one) of y */
} F(Sums);

/* Numerators and denominators of ROWS rows from what comes from the left and from the right of them. */
INLINE void F(mix_rows)(F(Sums) *y, const WEIGHTS *x, PAIR left, PAIR right, VF decay, VF bonus, int rows) {
    for (int r = rows - 1; r >= 0; r--) {
        y->sum[r].one = bonus * x->e[r] + right.one;
        y->sum[r].v = bonus * x->ev[r] + right.v;
        right.one = decay * right.one + x->e[r];
        right.v = decay * right.v + x->ev[r];
    }
    for (int r = 0; r < rows; r++) {
        y->sum[r].one += left.one;
        y->sum[r].v += left.v;
        left.one = decay * left.one + x->e[r];
        left.v = decay * left.v + x->ev[r];
    }
}

/* From last tile to first: what the pass before read last is still in the cache. */
static void F(mix)(const Call *c, int64_t begin, int64_t end) {
    const int64_t last = c->batch * c->tiles - 1, step = c->token_stride, pad = c->padded;
    WEIGHTS w[STEPS][UNITS];
    PAIR right[STEPS][UNITS], own[UNITS];
    STORE_T *y = (STORE_T *)c->y;
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(c, last - i), next = locate(c, last - (i + 1 < end ? i + 1 : i));
        F(prefetch_states)(c, c->states + next.state, next.line_state, next.lines, &next);
        F(from_right)(c, &t, next.base + next.channel - t.channel, w, right);
        for (int q = 0; q < UNITS; q++) own[q] = (PAIR){{0}, {0}};
        for (int l = 0; l < t.length; l += ROWS) {
            const int rows = t.length - l < ROWS ? t.length - l : ROWS;
            FOR_UNITS(t) {
                const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
                const VF power = F(load_f)(c->power + l * pad + ch);
                const WEIGHTS *x = &w[l / ROWS][q];
                STORE_T *out = y + t.base + l * step + offset + ch;
                PAIR entering = F(load_pair)(c->states + t.state + line * t.line_state + ch, pad);
                PAIR left = F(add_scaled)(own[q], power, entering);
                F(prefetch_store)(out + AHEAD * step, step);
                SPECIALIZED(rows, LANES_AT(ch), {
                    F(Sums) sums;
                    F(mix_rows)(&sums, x, left, right[l / ROWS][q], decay, bonus, rows_);
                    for (int r = 0; r < rows_; r++) F(store)(out + r * step, sums.sum[r].v / sums.sum[r].one, n_);
                    own[q] = F(run_up)(own[q], decay, x->e, x->ev, rows_);
                });
            }
        }
    }
}

/* Backward: with D and y recomputed, g = gy / D and h = g y are mixed by the same symmetric operator. */
typedef struct {
    VF g[ROWS], h[ROWS];
} F(Grads);

INLINE void F(grad_rows)(F(Grads) *z, const F(Sums) *y, const STORE_T *gy, int64_t step, int rows, int n) {
    for (int r = 0; r < rows; r++) {
        VF inverse = 1.0f / y->sum[r].one;
        z->g[r] = F(load)(gy + r * step, n) * inverse;
        z->h[r] = z->g[r] * (y->sum[r].v * inverse);
    }
}

/* First the sums of g and h over the chunks, ... */
static void F(grad_totals)(const Call *c, int64_t begin, int64_t end) {
    const int64_t step = c->token_stride, pad = c->padded;
    WEIGHTS w[STEPS][UNITS];
    PAIR right[STEPS][UNITS], own[UNITS], ahead[UNITS], behind[UNITS];
    const STORE_T *gy = (const STORE_T *)c->gy;
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(c, i), next = locate(c, i + 1 < end ? i + 1 : i);
        F(prefetch_states)(c, c->states + next.state, next.line_state, next.lines, &next);
        F(from_right)(c, &t, next.base + next.channel - t.channel, w, right);
        for (int q = 0; q < UNITS; q++) own[q] = ahead[q] = behind[q] = (PAIR){{0}, {0}};
        for (int l = 0; l < t.length; l += ROWS) {
            const int rows = t.length - l < ROWS ? t.length - l : ROWS;
            FOR_UNITS(t) {
                const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
                const VF power = F(load_f)(c->power + l * pad + ch);
                const VF to_end = F(load_f)(c->power + (t.length - l - rows) * pad + ch);
                const WEIGHTS *x = &w[l / ROWS][q];
                const STORE_T *in = gy + t.base + l * step + offset + ch;
                PAIR entering = F(load_pair)(c->states + t.state + line * t.line_state + ch, pad);
                PAIR left = F(add_scaled)(own[q], power, entering);
                F(prefetch)(in + AHEAD * step, step);
                SPECIALIZED(rows, LANES_AT(ch), {
                    F(Sums) sums;
                    F(Grads) z;
                    F(mix_rows)(&sums, x, left, right[l / ROWS][q], decay, bonus, rows_);
                    F(grad_rows)(&z, &sums, in, step, rows_, n_);
                    F(total_rows)(&ahead[q], &behind[q], z.g, z.h, decay, to_end, power, rows_);
                    own[q] = F(run_up)(own[q], decay, x->e, x->ev, rows_);
                });
            }
        }
        FOR_UNITS(t) {
            float *s = c->grad_states + t.grad_state + line * t.line_state + ch;
            (void)offset;
            F(store_pair)(s, pad, ahead[q]);
            F(store_pair)(s + 2 * pad, pad, behind[q]);
        }
    }
}

/* What the last sweep over a tile needs from the two before it. */
typedef struct {
    WEIGHTS w[STEPS][UNITS];
    F(Grads) z[STEPS][UNITS];
    PAIR right[STEPS][UNITS], left[STEPS][UNITS], grad_left[STEPS][UNITS]; /* at the edges of every ROWS rows */
    VF sum_w[UNITS], sum_u[UNITS];
} F(Scratch);

/* ... then, once more from left to right, g and h, what comes from the left, and half of the gradient of w, ... */
INLINE void F(grad_from_left)(const Call *c, const Tile *tile, F(Scratch) *m) {
    const Tile t = *tile;
    const int64_t step = c->token_stride, pad = c->padded;
    PAIR own[UNITS], grad_own[UNITS];
    for (int q = 0; q < UNITS; q++) own[q] = grad_own[q] = (PAIR){{0}, {0}};
    for (int l = 0; l < t.length; l += ROWS) {
        const int rows = t.length - l < ROWS ? t.length - l : ROWS, b = l / ROWS;
        FOR_UNITS(t) {
            const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
            const VF power = F(load_f)(c->power + l * pad + ch);
            const WEIGHTS *x = &m->w[b][q];
            F(Grads) *z = &m->z[b][q];
            const STORE_T *in = (const STORE_T *)c->gy + t.base + l * step + offset + ch;
            PAIR entering = F(load_pair)(c->states + t.state + line * t.line_state + ch, pad);
            PAIR left = m->left[b][q] = F(add_scaled)(own[q], power, entering);
            entering = F(load_pair)(c->grad_states + t.grad_state + line * t.line_state + ch, pad);
            PAIR grad_left = m->grad_left[b][q] = F(add_scaled)(grad_own[q], power, entering);
            F(prefetch)(in + AHEAD * step, step);
            SPECIALIZED(rows, LANES_AT(ch), {
                F(Sums) sums;
                F(mix_rows)(&sums, x, left, m->right[b][q], decay, bonus, rows_);
                F(grad_rows)(z, &sums, in, step, rows_, n_);
                own[q] = F(run_up)(own[q], decay, x->e, x->ev, rows_);
                grad_own[q] = F(run_up)(grad_own[q], decay, z->g, z->h, rows_);
                PAIR right = m->right[b][q];
                PAIR rights[ROWS];
                for (int r = rows_ - 1; r >= 0; r--) {
                    rights[r] = right;
                    right = F(run_down)(right, decay, &x->e[r], &x->ev[r], 1);
                }
                for (int r = 0; r < rows_; r++) {
                    m->sum_u[q] += z->g[r] * x->ev[r] - z->h[r] * x->e[r];
                    m->sum_w[q] += rights[r].v * grad_left.one - rights[r].one * grad_left.v;
                    grad_left = F(run_up)(grad_left, decay, &z->g[r], &z->h[r], 1);
                }
            });
        }
    }
}

/* ... and from right to left the other half and the gradients of k and v. */
INLINE void F(grad_from_right)(const Call *c, const Tile *tile, F(Scratch) *m) {
    const Tile t = *tile;
    const int64_t step = c->token_stride, pad = c->padded;
    PAIR own[UNITS];
    for (int q = 0; q < UNITS; q++) own[q] = (PAIR){{0}, {0}};
    for (int l = (t.length - 1) / ROWS * ROWS; l >= 0; l -= ROWS) {
        const int rows = t.length - l < ROWS ? t.length - l : ROWS, b = l / ROWS;
        FOR_UNITS(t) {
            const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
            const VF power = F(load_f)(c->power + (t.length - l - rows) * pad + ch);
            const WEIGHTS *x = &m->w[b][q];
            const F(Grads) *z = &m->z[b][q];
            const int64_t at = t.base + l * step + offset + ch;
            STORE_T *gk = (STORE_T *)c->gk + at, *gv = (STORE_T *)c->gv + at;
            PAIR entering = F(load_pair)(c->grad_states + t.grad_state + line * t.line_state + 2 * pad + ch, pad);
            PAIR right = F(add_scaled)(own[q], power, entering), left = m->left[b][q], grad_left = m->grad_left[b][q];
            F(prefetch_store)(gk - AHEAD * step, step);
            F(prefetch_store)(gv - AHEAD * step, step);
            SPECIALIZED(rows, LANES_AT(ch), {
                PAIR lefts[ROWS];
                PAIR mixed[ROWS];
                for (int r = 0; r < rows_; r++) {
                    lefts[r] = left;
                    mixed[r].one = bonus * z->g[r] + grad_left.one;
                    mixed[r].v = bonus * z->h[r] + grad_left.v;
                    left = F(run_up)(left, decay, &x->e[r], &x->ev[r], 1);
                    grad_left = F(run_up)(grad_left, decay, &z->g[r], &z->h[r], 1);
                }
                for (int r = rows_ - 1; r >= 0; r--) {
                    VF g = mixed[r].one + right.one, h = mixed[r].v + right.v;
                    F(store)(gv + r * step, x->e[r] * g, n_);
                    F(store)(gk + r * step, x->ev[r] * g - x->e[r] * h, n_);
                    m->sum_w[q] += lefts[r].v * right.one - lefts[r].one * right.v;
                    right = F(run_down)(right, decay, &z->g[r], &z->h[r], 1);
                }
                own[q] = F(run_down)(own[q], decay, z->g, z->h, rows_);
            });
        }
    }
}

/* This chunk's share of the gradients of w and u takes the place of its states. */
static void F(grad)(const Call *c, int64_t begin, int64_t end) {
    const int64_t last = c->batch * c->tiles - 1, pad = c->padded;
    F(Scratch) m;
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(c, last - i), next = locate(c, last - (i + 1 < end ? i + 1 : i));
        for (int q = 0; q < UNITS; q++) m.sum_w[q] = m.sum_u[q] = (VF){0};
        F(prefetch_states)(c, c->states + next.state, next.line_state, next.lines, &next);
        F(prefetch_states)(c, c->grad_states + next.grad_state, next.line_state, next.lines, &next);
        F(from_right)(c, &t, next.base + next.channel - t.channel, m.w, m.right);
        F(grad_from_left)(c, &t, &m);
        F(grad_from_right)(c, &t, &m);
        FOR_UNITS(t) {
            float *s = c->grad_states + t.grad_state + line * t.line_state + ch;
            (void)offset;
            F(store_pair)(s, pad, (PAIR){m.sum_w[q], m.sum_u[q]});
        }
    }
}

static const Phases F(phases) = {LANES,          F(largest),    F(totals), F(carry),
                                 F(mix), F(grad_totals), F(grad)};

#undef UNITS
#undef STEPS
#undef WEIGHTS
#undef PAIR
#undef FOR_UNITS
#undef LANES_AT
#undef SPECIALIZED
#undef INLINE
#undef VF
#undef STORE_T
#undef STORE_BF16
#undef VARIANT

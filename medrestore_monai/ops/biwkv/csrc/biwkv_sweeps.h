/* Sweeps of the Bi-WKV kernel, written once with vector types and included by biwkv.c for every instruction set and
   storage type. Expects LANES (floats per register), FUSED (whether it has multiply-add), VARIANT (the suffix that F
   adds to names), STORE_BF16 (1: k, v, r, y and their gradients are bfloat16 in memory; 0: float), PRODUCTS_BF16 (1: it
   multiplies bfloat16 and rounds to it by instructions of its own) and TILES (1: it multiplies tiles of matrices). */

#if STORE_BF16
#define STORE_T uint16_t
#else
#define STORE_T float
#endif

typedef float F(vf) __attribute__((vector_size(4 * LANES)));
typedef float F(vf_mem) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t F(vi) __attribute__((vector_size(4 * LANES)));
typedef uint32_t F(vu) __attribute__((vector_size(4 * LANES)));
typedef uint16_t F(vh) __attribute__((vector_size(2 * LANES)));
typedef uint16_t F(vh_mem) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define VF F(vf)
#define INLINE static inline __attribute__((always_inline))

INLINE VF F(spread)(float x) { return (VF){0} + x; }

INLINE VF F(load_f)(const float *p) { return *(const F(vf_mem) *)p; }

INLINE void F(store_f)(float *p, VF x) { *(F(vf_mem) *)p = x; }

#if STORE_BF16
INLINE VF F(widen)(F(vh) half) { return (VF)(__builtin_convertvector(half, F(vu)) << 16); }

INLINE F(vh) F(narrow)(VF x) { /* round to nearest, ties to even; a NaN stays one */
#if PRODUCTS_BF16
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    F(vh) half;
    __builtin_memcpy(&half, &rounded, sizeof(half));
    return half;
#else
    F(vu) bits = (F(vu))x;
    F(vu) rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    F(vu) nan = (F(vu))(x != x);
    return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), F(vh));
#endif
}
#endif

/* n lanes from memory, the others zero */
INLINE VF F(load)(const STORE_T *p, int n) {
#if STORE_BF16
    F(vh) half = {0};
    if (n == LANES) half = *(const F(vh_mem) *)p;
    else __builtin_memcpy(&half, p, 2 * (size_t)n);
    return F(widen)(half);
#else
    if (n == LANES) return F(load_f)(p);
    VF x = {0};
    __builtin_memcpy(&x, p, 4 * (size_t)n);
    return x;
#endif
}

INLINE void F(store)(STORE_T *p, VF x, int n) {
#if STORE_BF16
    F(vh) half = F(narrow)(x);
    if (n == LANES) *(F(vh_mem) *)p = half;
    else __builtin_memcpy(p, &half, 2 * (size_t)n);
#else
    if (n == LANES) F(store_f)(p, x);
    else __builtin_memcpy(p, &x, 4 * (size_t)n);
#endif
}

/* store, past the caches where asked for and possible */
INLINE void F(store_past)(STORE_T *p, VF x, int n, int past) {
#if LANES == 8 && !STORE_BF16
    if (past && n == LANES && ((uintptr_t)p & 31) == 0) {
        _mm256_stream_ps(p, (__m256)x);
        return;
    }
#elif LANES == 16 && !STORE_BF16
    if (past && n == LANES && ((uintptr_t)p & 63) == 0) {
        _mm512_stream_ps(p, (__m512)x);
        return;
    }
#elif LANES == 8
    if (past && n == LANES && ((uintptr_t)p & 15) == 0) {
        _mm_stream_si128((__m128i *)p, (__m128i)F(narrow)(x));
        return;
    }
#elif LANES == 16
    if (past && n == LANES && ((uintptr_t)p & 31) == 0) {
        _mm256_stream_si256((__m256i *)p, (__m256i)F(narrow)(x));
        return;
    }
#endif
    (void)past;
    F(store)(p, x, n);
}

/* the larger of each lane; where b is not a number, b, so that a NaN is not lost */
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

/* 2^x for x <= 115, within 2 ulp and exactly 1 at 0; below FLOOR it stays 2^FLOOR (see biwkv.c) */
INLINE VF F(exp2)(VF x) {
    x = F(max)(F(spread)(FLOOR), x);
    const VF magic = F(spread)(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    VF shifted = x + magic;
    VF f = x - (shifted - magic);
    VF q = F(spread)(Q4);
    q = q * f + Q3;
    q = q * f + Q2;
    q = q * f + Q1;
    q = q * f + Q0;
    VF p = q * f + 1.0f;
    return (VF)((F(vi))p + ((F(vi))shifted << 23));
}

/* The largest keys are kept so that e^{k - top} is rounded once before the exponential, and the ratio of two tops is
   exactly that of the weights they give. */
#if FUSED
INLINE VF F(top_of)(VF k) { return k * LOG2E; }
INLINE VF F(weight)(VF k, VF top) { return F(exp2)(k * LOG2E - top); }
INLINE VF F(ratio)(VF top, VF other) { return F(exp2)(top - other); }
#else
INLINE VF F(top_of)(VF k) { return k; }
INLINE VF F(weight)(VF k, VF top) { return F(exp2)((k - top) * LOG2E); }
INLINE VF F(ratio)(VF top, VF other) { return F(exp2)((top - other) * LOG2E); }
#endif

INLINE VF F(sigmoid)(VF x) { return 1.0f / (1.0f + F(exp2)(-F(max)(F(spread)(FLOOR), x * LOG2E))); }

typedef struct {
    VF one, v; /* a sum of weights, or of g, and the same with values, or of h */
} F(Pair);

#define PAIR F(Pair)
#define UNITS (WIDTH / LANES)
/* floats of a unit: one register of channels of one line, all tokens of a chunk; units do not fall into one set of the
   cache */
#define UNIT (CHUNK * LANES + 16)

INLINE PAIR F(load_pair)(const float *p, int64_t pad) { return (PAIR){F(load_f)(p), F(load_f)(p + pad)}; }

INLINE void F(store_pair)(float *p, int64_t pad, PAIR x) {
    F(store_f)(p, x.one);
    F(store_f)(p + pad, x.v);
}

INLINE PAIR F(add_scaled)(PAIR x, VF scale, PAIR y) { return (PAIR){scale * y.one + x.one, scale * y.v + x.v}; }

/* A tile in scratch memory: memory itself is read and written token by token, in stretches of a tile's width, since
   the tokens of a column may all fall into one set of the cache; the recurrences go unit by unit, in registers. */
typedef struct {
    float e[UNITS][UNIT], ev[UNITS][UNIT]; /* weights, and weights times values; later results */
} __attribute__((aligned(64))) F(Scratch);

#define SCRATCH F(Scratch)
#define AT(x, l) ((x) + (l) * LANES) /* the l-th token of a unit */

/* For every unit: its number q, line, first channel ch and place in a token's stretch, offset. */
#define FOR_UNITS(t)                                                                                        \
    for (int q = 0, line = 0; line < (t)->lines; line++)                                                    \
        for (int64_t ch = (t)->channel, offset = line * c->grid.line_stride + ch; ch < (t)->channel_end;    \
             ch += LANES, offset += LANES, q++)

#define LANES_AT(ch) ((int)(c->channels - (ch) < LANES ? c->channels - (ch) : LANES))

/* For every token l of a tile and all its units: memory is read or written token by token, n lanes at a time. */
#define FOR_TOKENS(t)                               \
    for (int l = 0; l < (t)->length; l++)           \
        FOR_UNITS(t)                                \
            for (int n = LANES_AT(ch); n; n = 0)

/* The states of a tile: few, but each from a new place. */
INLINE void F(prefetch_states)(const Scan *c, const float *states, const Tile *t) {
    for (int line = 0; line < t->lines; line++)
        for (int row = 0; row < 4; row++)
            for (int64_t ch = t->channel; ch < t->channel_end; ch += 16)
                __builtin_prefetch(states + t->state + line * t->line_state + row * c->padded + ch);
}

/* The number of units of a tile. */
INLINE int F(units)(const Tile *t) { return t->lines * (int)((t->channel_end - t->channel + LANES - 1) / LANES); }

/* While unit q of so many is computed on, bring its share of the next tile nearer: of k, v and, if given, another. */
INLINE void F(prefetch_share)(const Scan *c, const Tile *next, int q, int units, const void *another) {
    const STORE_T *k = (const STORE_T *)c->k + next->base, *v = (const STORE_T *)c->v + next->base;
    const int64_t step = c->grid.token_stride;
    for (int l = next->length * q / units; l < next->length * (q + 1) / units; l++)
        for (int line = 0; line < next->lines; line++)
            for (int64_t ch = next->channel; ch < next->channel_end; ch += 64 / sizeof(STORE_T)) {
                const int64_t at = l * step + line * c->grid.line_stride + ch;
                __builtin_prefetch(k + at, 0, 2);
                __builtin_prefetch(v + at, 0, 2);
                if (another) __builtin_prefetch((const STORE_T *)another + next->base + at, 0, 2);
            }
}

/* What lies AHEAD tokens later, in the tile or in the next. */
INLINE const STORE_T *F(soon)(const void *p, const Scan *c, const Tile *t, const Tile *next, int l) {
    const int64_t inside = t->base, outside = next->base + next->channel - t->channel - t->length * c->grid.token_stride;
    const int later = l + AHEAD;
    return (const STORE_T *)p + (later < t->length ? inside : outside) + later * c->grid.token_stride;
}

/* Weights of a tile, and weights times values. */
INLINE void F(weigh)(const Scan *c, const Tile *t, const Tile *next, SCRATCH *m) {
    const STORE_T *k = (const STORE_T *)c->k + t->base, *v = (const STORE_T *)c->v + t->base;
    const int64_t step = c->grid.token_stride;
    if (c->block) {
        FOR_TOKENS(t) {
            __builtin_prefetch(F(soon)(c->k, c, t, next, l) + offset);
            __builtin_prefetch(F(soon)(c->v, c, t, next, l) + offset);
            F(store_f)(AT(m->e[q], l), F(load)(k + l * step + offset, n));
            F(store_f)(AT(m->ev[q], l), F(load)(v + l * step + offset, n));
        }
        return;
    }
    FOR_TOKENS(t) {
        __builtin_prefetch(F(soon)(c->k, c, t, next, l) + offset);
        __builtin_prefetch(F(soon)(c->v, c, t, next, l) + offset);
        const VF e = F(weight)(F(load)(k + l * step + offset, n), F(load_f)(c->tops + t->top + ch));
        F(store_f)(AT(m->e[q], l), e);
        F(store_f)(AT(m->ev[q], l), e * F(load)(v + l * step + offset, n));
    }
}

/* Keys and values of a tile as they are, and the largest keys. */
INLINE void F(copy)(const Scan *c, const Tile *t, const Tile *next, SCRATCH *m, VF *top) {
    const STORE_T *k = (const STORE_T *)c->k + t->base, *v = (const STORE_T *)c->v + t->base;
    const int64_t step = c->grid.token_stride;
    FOR_UNITS(t) top[q] = F(load)(k + offset, LANES_AT(ch));
    FOR_TOKENS(t) {
        __builtin_prefetch(F(soon)(c->k, c, t, next, l) + offset);
        __builtin_prefetch(F(soon)(c->v, c, t, next, l) + offset);
        const VF key = F(load)(k + l * step + offset, n);
        top[q] = F(max)(top[q], key);
        F(store_f)(AT(m->e[q], l), key);
        F(store_f)(AT(m->ev[q], l), F(load)(v + l * step + offset, n));
    }
}

/* Sums of every chunk as seen from just behind its end and just before its start. Decays come from the table: those
   of a rounded e^{-w} would drift. While the largest keys are not known, the sums count from the chunk's own. */
static void F(totals)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const int64_t pad = c->padded;
    SCRATCH m;
    VF top[UNITS];
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(scan, i), next = locate(scan, i + 1 < end ? i + 1 : i);
        const int units = F(units)(&t);
        F(copy)(c, &t, &next, &m, top);
        FOR_UNITS(&t) {
            float *s = c->states + t.state + line * t.line_state + ch;
            const float *e = m.e[q], *ev = m.ev[q], *to_start = c->power + ch, *to_end = to_start + (t.length - 1) * pad;
            const VF from = c->chunk_tops ? F(top_of)(top[q]) : F(load_f)(c->tops + t.top + ch);
            PAIR ahead = {{0}, {0}}, behind = {{0}, {0}};
            (void)offset;
            F(prefetch_share)(c, &next, q, units, NULL);
            for (int l = 0; l < t.length; l++) {
                const VF x = F(weight)(F(load_f)(AT(e, l)), from);
                const PAIR pair = {x, x * F(load_f)(AT(ev, l))};
                ahead = F(add_scaled)(ahead, F(load_f)(to_end - l * pad), pair);
                behind = F(add_scaled)(behind, F(load_f)(to_start + l * pad), pair);
            }
            F(store_pair)(s, pad, ahead);
            F(store_pair)(s + 2 * pad, pad, behind);
            if (c->chunk_tops) F(store_f)(c->chunk_tops + (t.state + line * t.line_state) / 4 + ch, from);
        }
    }
}

/* Replace the sums of the chunks by what enters each of them from the left and from the right. In double:
   thousands of decays are multiplied here. Item: image, channel block, direction. */
static void F(carry)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const int64_t pad = c->padded, blocks = pad / LANES, chunks = c->grid.chunks;
    for (int64_t i = begin; i < end; i++) {
        const int backward = (int)(i % 2);
        const int64_t ch = i / 2 % blocks * LANES, image = i / 2 / blocks;
        float *states = c->carried + image * chunks * 4 * pad + ch;
        double sum[LANES] = {0}, sum_v[LANES] = {0};
        if (ch >= c->channels) continue;
        for (int64_t n = 0; n < chunks; n++) {
            const int64_t m = backward ? chunks - 1 - n : n;
            const double *decay = c->decay + (chunk_length(&c->grid, m) - c->grid.short_length) * pad + ch;
            float *s = states + (4 * m + 2 * backward) * pad;
            VF add = F(load_f)(s), add_v = F(load_f)(s + pad);
            if (c->chunk_tops) {
                const VF scale = F(ratio)(F(load_f)(c->chunk_tops + (image * chunks + m) * pad + ch),
                                          F(load_f)(c->tops + image * pad + ch));
                add *= scale;
                add_v *= scale;
            }
            for (int j = 0; j < LANES; j++) {
                s[j] = (float)sum[j];
                s[pad + j] = (float)sum_v[j];
                sum[j] = sum[j] * decay[j] + add[j];
                sum_v[j] = sum_v[j] * decay[j] + add_v[j];
            }
        }
    }
}

/* What enters a chunk from both sides. It is added to the chunk's own sums anew at each token, with decays from a table:
   many small decays of a large sum would be rounded away. */
typedef struct {
    PAIR left, right;
    const float *to_start, *to_end; /* decays of the first token from the left and from the right, those of others on */
    int64_t pad;
} F(Entering);

#define ENTERING F(Entering)

INLINE ENTERING F(entering)(const Scan *c, const float *states, int length, int64_t ch) {
    const float *power = c->power + ch;
    return (ENTERING){F(load_pair)(states, c->padded), F(load_pair)(states + 2 * c->padded, c->padded), power,
                      power + (length - 1) * c->padded, c->padded};
}

INLINE PAIR F(add_left)(PAIR own, const ENTERING *x, int l) {
    return F(add_scaled)(own, F(load_f)(x->to_start + l * x->pad), x->left);
}

INLINE PAIR F(add_right)(PAIR own, const ENTERING *x, int l) {
    return F(add_scaled)(own, F(load_f)(x->to_end - l * x->pad), x->right);
}

/* From the chunk's end to its start: what each token gets from the right of it, and from itself if `bonus` is given. */
INLINE void F(from_right)(const float *e, const float *ev, float *sums, int length, VF decay, const ENTERING *in,
                          const VF *bonus) {
    PAIR own = {{0}, {0}};
    for (int l = length - 1; l >= 0; l--) {
        const PAIR x = {F(load_f)(AT(e, l)), F(load_f)(AT(ev, l))};
        const PAIR right = F(add_right)(own, in, l);
        F(store_pair)(AT(sums, 2 * l), LANES, bonus ? F(add_scaled)(right, *bonus, x) : right);
        own = F(add_scaled)(x, decay, own);
    }
}

/* Of the columns that a tile of rows crosses: the sums over their chunks. */
typedef struct {
    int first; /* whether this row is the first */
    const float *to_start, *to_end; /* decays of the row in the columns' chunks */
    float (*sums)[4 * CHUNK * LANES];
} F(Gathered);

/* Results of a tile, in place of weights times values; if `into` is given, add them, too. */
INLINE void F(mix_tile)(const Scan *c, const Tile *t, const Tile *next, SCRATCH *m, const F(Gathered) *into) {
    const VF zero = {0};
    const int units = F(units)(t);
    float sums[2 * CHUNK * LANES] __attribute__((aligned(64)));
    F(prefetch_states)(c, c->states, next);
    F(weigh)(c, t, next, m);
    FOR_UNITS(t) {
        const ENTERING in = F(entering)(c, c->states + t->state + line * t->line_state + ch, t->length, ch);
        const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
        const VF start = into ? F(load_f)(into->to_start + ch) : zero, end = into ? F(load_f)(into->to_end + ch) : zero;
        float *e = m->e[q], *ev = m->ev[q], *gathered = into ? into->sums[q] : NULL;
        PAIR own = {{0}, {0}};
        (void)offset;
        if (into && into->first)
            for (int l = 0; l < 4 * t->length; l++) F(store_f)(AT(gathered, l), zero);
        F(prefetch_share)(c, next, q, units, c->r);
        F(from_right)(e, ev, sums, t->length, decay, &in, &bonus);
        for (int l = 0; l < t->length; l++) {
            const PAIR x = {F(load_f)(AT(e, l)), F(load_f)(AT(ev, l))};
            const PAIR sum = F(add_left)(F(load_pair)(AT(sums, 2 * l), LANES), &in, l);
            VF y = (own.v + sum.v) / (own.one + sum.one);
            if (c->block && into) y *= x.one;
            F(store_f)(AT(ev, l), y);
            own = F(add_scaled)(x, decay, own);
            if (into) {
#if STORE_BF16
                y = F(widen)(F(narrow)(y));
#endif
                float *s = AT(gathered, 4 * l);
                const PAIR z = {x.one, c->block ? y : x.one * y};
                F(store_pair)(s, LANES, F(add_scaled)(F(load_pair)(s, LANES), end, z));
                F(store_pair)(s + 2 * LANES, LANES, F(add_scaled)(F(load_pair)(s + 2 * LANES, LANES), start, z));
            }
        }
    }
}

INLINE void F(write_tile)(const Scan *c, const Tile *t, const SCRATCH *m) {
    const int64_t step = c->grid.token_stride;
    STORE_T *y = (STORE_T *)c->y + t->base;
    if (c->r) {
        const STORE_T *r = (const STORE_T *)c->r + t->base;
        FOR_TOKENS(t) {
            __builtin_prefetch(r + (l + AHEAD) * step + offset);
            const VF receptance = F(load)(r + l * step + offset, n), gate = c->block ? receptance : F(sigmoid)(receptance);
            F(store_past)(y + l * step + offset, F(load_f)(AT(m->ev[q], l)) * gate, n, c->past_caches);
        }
    } else if (c->past_caches) {
        FOR_TOKENS(t) { F(store_past)(y + l * step + offset, F(load_f)(AT(m->ev[q], l)), n, 1); }
    } else {
        FOR_TOKENS(t) {
            __builtin_prefetch(y + (l + AHEAD) * step + offset, 1);
            F(store)(y + l * step + offset, F(load_f)(AT(m->ev[q], l)), n);
        }
    }
}

/* From last tile to first: what the pass before read last is still in the cache. */
static void F(mix)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const int64_t last = c->batch * c->grid.tiles - 1;
    SCRATCH m;
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(scan, last - i), next = locate(scan, last - (i + 1 < end ? i + 1 : i));
        F(mix_tile)(c, &t, &next, &m, NULL);
        F(write_tile)(c, &t, &m);
    }
}

/* `mix` along rows which, row after row of a band, gathers the sums over the columns' chunks in the band. */
static void F(gather)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const Scan *next = c->next;
    const int64_t pad = c->padded, bands = next->grid.line_chunks, parts = c->grid.line_chunks;
    float sums[UNITS][4 * CHUNK * LANES] __attribute__((aligned(64)));
    SCRATCH m;
    for (int64_t i = begin; i < end; i++) {
        const int64_t j = c->batch * bands * parts * c->grid.channel_tiles - 1 - i; /* as in `mix` */
        const int64_t channel_tile = j % c->grid.channel_tiles, part = j / c->grid.channel_tiles % parts;
        const int64_t band = j / c->grid.channel_tiles / parts % bands, image = j / c->grid.channel_tiles / parts / bands;
        const int64_t top = chunk_start(&next->grid, band), bottom = chunk_start(&next->grid, band + 1);
        Tile t = tile_at(scan, image, top, part, channel_tile);
        for (int64_t row = top; row < bottom; row++) {
            const Tile below = tile_at(scan, image, row + 1 < bottom ? row + 1 : row, part, channel_tile);
            const F(Gathered) into = {row == top, next->power + (row - top) * pad, next->power + (bottom - 1 - row) * pad, sums};
            F(mix_tile)(c, &t, &below, &m, &into);
            F(write_tile)(c, &t, &m);
            t = below;
        }
        FOR_UNITS(&t) {
            const int64_t column = chunk_start(&c->grid, part);
            (void)offset;
            for (int l = 0; l < t.length; l++)
                for (int row = 0; row < 4; row++) {
                    const int64_t chunk = (image * next->grid.lines + column + l) * bands + band;
                    F(store_f)(next->states + (4 * chunk + row) * pad + ch, F(load_f)(sums[q] + (4 * l + row) * LANES));
                }
        }
    }
}

/* Backward: with D and y recomputed, g = gy / D and h = g y are mixed by the same symmetric operator. */
typedef struct {
    F(Scratch) x;
    float gy[UNITS][UNIT], gate[UNITS][UNIT]; /* gate: what y is multiplied by in the gradient of r */
} __attribute__((aligned(64))) F(GradScratch);

#define GRAD_SCRATCH F(GradScratch)

/* The gradient of what the gate multiplied; it goes to gv, where the second sweep finds it. */
INLINE void F(load_grad)(const Scan *c, const Tile *t, const Tile *next, int gated, GRAD_SCRATCH *m) {
    const STORE_T *gy = (const STORE_T *)c->gy + t->base, *r = (const STORE_T *)c->r + t->base;
    const int64_t step = c->grid.token_stride;
    STORE_T *gv = (STORE_T *)c->gv + t->base;
    if (!gated) {
        FOR_TOKENS(t) {
            __builtin_prefetch(F(soon)(c->gy, c, t, next, l) + offset);
            F(store_f)(AT(m->gy[q], l), F(load)(gy + l * step + offset, n));
        }
        return;
    }
    FOR_TOKENS(t) {
        __builtin_prefetch(F(soon)(c->gy, c, t, next, l) + offset);
        __builtin_prefetch(F(soon)(c->r, c, t, next, l) + offset);
        VF g = F(load)(gy + l * step + offset, n);
        const VF gate = F(sigmoid)(F(load)(r + l * step + offset, n));
        F(store_f)(AT(m->gate[q], l), g * gate * (1.0f - gate));
        g *= gate;
#if STORE_BF16
        g = F(widen)(F(narrow)(g));
#endif
        F(store_past)(gv + l * step + offset, g, n, c->past_caches);
        F(store_f)(AT(m->gy[q], l), g);
    }
}

/* First the sums of g and h over the chunks, and the gradient of the gate, ... */
static void F(grad_totals)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const int64_t pad = c->padded, step = c->grid.token_stride;
    GRAD_SCRATCH m;
    float sums[2 * CHUNK * LANES] __attribute__((aligned(64)));
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(scan, i), next = locate(scan, i + 1 < end ? i + 1 : i);
        F(prefetch_states)(c, c->states, &next);
        F(weigh)(c, &t, &next, &m.x);
        F(load_grad)(c, &t, &next, c->r != NULL, &m);
        FOR_UNITS(&t) {
            const ENTERING in = F(entering)(c, c->states + t.state + line * t.line_state + ch, t.length, ch);
            float *out = c->grad_states + t.state + line * t.line_state + ch;
            const VF decay = F(load_f)(c->high + ch), bonus = F(load_f)(c->bonus + ch);
            float *e = m.x.e[q], *ev = m.x.ev[q];
            PAIR own = {{0}, {0}}, ahead = {{0}, {0}}, behind = {{0}, {0}};
            (void)offset;
            F(prefetch_share)(c, &next, q, F(units)(&t), c->gy);
            F(from_right)(e, ev, sums, t.length, decay, &in, &bonus);
            for (int l = 0; l < t.length; l++) {
                const PAIR x = {F(load_f)(AT(e, l)), F(load_f)(AT(ev, l))};
                const VF to_start = F(load_f)(in.to_start + l * pad), to_end = F(load_f)(in.to_end - l * pad);
                const PAIR sum = F(add_scaled)(F(load_pair)(AT(sums, 2 * l), LANES), to_start, in.left);
                const VF inverse = 1.0f / (own.one + sum.one), y = (own.v + sum.v) * inverse;
                const VF g = F(load_f)(AT(m.gy[q], l)) * inverse;
                const PAIR z = {g, g * y};
                F(store_f)(AT(ev, l), y);
                ahead = F(add_scaled)(ahead, to_end, z);
                behind = F(add_scaled)(behind, to_start, z);
                own = F(add_scaled)(x, decay, own);
            }
            F(store_pair)(out, pad, ahead);
            F(store_pair)(out + 2 * pad, pad, behind);
        }
        if (!c->r) continue;
        STORE_T *gr = (STORE_T *)c->gr + t.base;
        FOR_TOKENS(&t) {
            const VF grad_r = F(load_f)(AT(m.x.ev[q], l)) * F(load_f)(AT(m.gate[q], l));
            F(store_past)(gr + l * step + offset, grad_r, n, c->past_caches);
        }
    }
}

/* ... then, a unit at a time, from the right what enters each token, from the left g and h, half of their sums and of
   the gradient of w, and from the right the other half. The gradients of v and k take the place of e and ev; the shares
   of those of w and u are returned as a pair. */
INLINE PAIR F(grad_unit)(float *e, float *ev, const float *gy, int length, VF decay, VF bonus, const ENTERING *in,
                         const ENTERING *grad_in) {
    float sums[2 * CHUNK * LANES] __attribute__((aligned(64))); /* from the right, later from the left */
    float z_of[2 * CHUNK * LANES] __attribute__((aligned(64))), mixed[2 * CHUNK * LANES] __attribute__((aligned(64)));
    PAIR shares = {{0}, {0}}, own = {{0}, {0}}, grad_own = {{0}, {0}};
    F(from_right)(e, ev, sums, length, decay, in, NULL);
    for (int l = 0; l < length; l++) {
        const PAIR x = {F(load_f)(AT(e, l)), F(load_f)(AT(ev, l))};
        const PAIR right = F(load_pair)(AT(sums, 2 * l), LANES);
        const PAIR left = F(add_left)(own, in, l), grad_left = F(add_left)(grad_own, grad_in, l);
        const VF inverse = 1.0f / (bonus * x.one + (left.one + right.one));
        const VF y = (bonus * x.v + (left.v + right.v)) * inverse;
        const VF g = F(load_f)(AT(gy, l)) * inverse;
        const PAIR z = {g, g * y};
        shares.one += right.v * grad_left.one - right.one * grad_left.v;
        shares.v += z.one * x.v - z.v * x.one;
        F(store_pair)(AT(sums, 2 * l), LANES, left);
        F(store_pair)(AT(z_of, 2 * l), LANES, z);
        F(store_pair)(AT(mixed, 2 * l), LANES, F(add_scaled)(grad_left, bonus, z));
        own = F(add_scaled)(x, decay, own);
        grad_own = F(add_scaled)(z, decay, grad_own);
    }
    grad_own = (PAIR){{0}, {0}};
    for (int l = length - 1; l >= 0; l--) {
        const PAIR left = F(load_pair)(AT(sums, 2 * l), LANES), z = F(load_pair)(AT(z_of, 2 * l), LANES);
        const PAIR half = F(load_pair)(AT(mixed, 2 * l), LANES), grad_right = F(add_right)(grad_own, grad_in, l);
        const VF x = F(load_f)(AT(e, l)), xv = F(load_f)(AT(ev, l));
        const VF g = half.one + grad_right.one, h = half.v + grad_right.v;
        shares.one += left.v * grad_right.one - left.one * grad_right.v;
        F(store_f)(AT(e, l), x * g);
        F(store_f)(AT(ev, l), xv * g - x * h);
        grad_own = F(add_scaled)(z, decay, grad_own);
    }
    return shares;
}

INLINE void F(write_grad)(const Scan *c, const Tile *t, const SCRATCH *m) {
    STORE_T *gk = (STORE_T *)c->gk + t->base, *gv = (STORE_T *)c->gv + t->base;
    const int64_t step = c->grid.token_stride;
    /* what has just been read is in the caches */
    const int past_k = c->past_caches && !c->add_gk, past_v = c->past_caches && c->gy != c->gv;
    FOR_TOKENS(t) {
        VF grad_k = F(load_f)(AT(m->ev[q], l));
        if (c->add_gk) {
            __builtin_prefetch(gk + (l + AHEAD) * step + offset, 1);
            grad_k += F(load)(gk + l * step + offset, n);
        }
        F(store_past)(gk + l * step + offset, grad_k, n, past_k);
        F(store_past)(gv + l * step + offset, F(load_f)(AT(m->e[q], l)), n, past_v);
    }
}

/* The chunk's share of the gradients of w and u takes the place of its states. */
static void F(grad)(const Scan *scan, int64_t begin, int64_t end) {
    const Scan local = *scan, *c = &local;
    const int64_t last = c->batch * c->grid.tiles - 1, pad = c->padded;
    GRAD_SCRATCH m;
    for (int64_t i = begin; i < end; i++) {
        const Tile t = locate(scan, last - i), next = locate(scan, last - (i + 1 < end ? i + 1 : i));
        F(prefetch_states)(c, c->states, &next);
        F(prefetch_states)(c, c->grad_states, &next);
        F(weigh)(c, &t, &next, &m.x);
        F(load_grad)(c, &t, &next, 0, &m);
        FOR_UNITS(&t) {
            float *grad_states = c->grad_states + t.state + line * t.line_state + ch;
            const ENTERING in = F(entering)(c, c->states + t.state + line * t.line_state + ch, t.length, ch);
            const ENTERING grad_in = F(entering)(c, grad_states, t.length, ch);
            (void)offset;
            F(prefetch_share)(c, &next, q, F(units)(&t), c->gy);
            F(store_pair)(grad_states, pad,
                          F(grad_unit)(m.x.e[q], m.x.ev[q], m.gy[q], t.length, F(load_f)(c->high + ch),
                                       F(load_f)(c->bonus + ch), &in, &grad_in));
        }
        F(write_grad)(c, &t, &m.x);
    }
}

#include "rwkv_block_sweeps.h"

static const Phases F(phases) = {LANES, F(totals), F(carry), F(mix), F(gather), F(grad_totals), F(grad),
                                   F(project), F(output), F(channels), F(pack)};

#undef UNITS
#undef UNIT
#undef PAIR
#undef SCRATCH
#undef AT
#undef ENTERING
#undef FOR_TOKENS
#undef GRAD_SCRATCH
#undef FOR_UNITS
#undef LANES_AT
#undef INLINE
#undef VF
#undef STORE_T
#undef STORE_BF16
#undef VARIANT

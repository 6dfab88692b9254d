/* Sweeps of an R-RWKV block around its scans, in inference: layer normalization, the depth-wise 5x5 convolution of the
   token shift, matrix products and gates, all of them for some pixels of a row while these are in the cache. Included
   for every instruction set and storage type, after biwkv_sweeps.h. */

#if TILES
#define ROWS 16 /* rows of a tile */
#elif LANES == 16
#define ROWS 8 /* rows of a product in registers: two registers of columns each */
#else
#define ROWS (FUSED ? 6 : 4)
#endif
#define PANEL (2 * LANES) /* columns of a matrix that are used together */
#define PIXELS 8 /* neighboring pixels that the convolution works on together */

/* What products take: rows of floats or, where the processor multiplies them, of bfloat16. */
#if PRODUCTS_BF16
#define INPUT_T uint16_t
#else
#define INPUT_T float
#endif

/* sum of the lanes */
INLINE float F(total)(VF x) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)x);
#elif LANES == 8
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return (x[0] + x[1]) + (x[2] + x[3]);
#endif
}

/* What a product of `rows` rows takes, `step` floats (a multiple of 16) from row to row; `room` is memory for it. */
INLINE const INPUT_T *F(inputs)(const float *a, int64_t step, int rows, uint16_t *room) {
#if PRODUCTS_BF16
    const int64_t count = (rows + ROWS - 1) / ROWS * ROWS * step;
    for (int64_t i = 0; i < count; i += LANES) *(F(vh_mem) *)(room + i) = F(narrow)(F(load_f)(a + i));
    return room;
#else
    (void)step, (void)rows, (void)room;
    return a;
#endif
}

/* What follows a product. */
INLINE VF F(after)(VF y, int then) {
    if (then == SIGMOID) return F(sigmoid)(y);
    if (then == AS_IS) return y;
    y = F(max)((VF){0}, y);
    return y * y;
}

/* Rows of a packed matrix: of floats, or of pairs of bfloat16. */
INLINE int64_t F(depth)(int64_t rows) { return TILES ? (rows + 15) / 16 * 8 : PRODUCTS_BF16 ? (rows + 1) / 2 : rows; }

#if TILES
/* Memory is written by here. Some compilers take the instructions on tiles for ones that read less than they do. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* Pairs of rows that tiles take at a time, for all matrices of a block. */
INLINE int F(pairs)(const Block *b) {
    for (int i = 0; i < 4; i++)
        if (F(depth)(b->matrices[i].rows) % 16) return 8;
    return 16;
}

/* Tiles 0 to 3 add up 16 rows by 16 columns, 4 and 5 hold 16 rows of inputs, 6 and 7 rows of a packed matrix. */
INLINE void F(begin_tiles)(int pairs) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * pairs : 64);
        shapes.rows[i] = (uint8_t)(i > 5 ? pairs : 16);
    }
    __asm__ volatile("" ::"r"(&shapes) : "memory"); /* all of it is read */
    _tile_loadconfig(&shapes);
}

/* Up to 32 rows of a times a panel of a packed matrix, 16 or 32 columns wide. */
INLINE void F(multiply_tiles)(const INPUT_T *a, int64_t a_step, const float *b, int64_t depth, int pairs, int more, int two,
                              float *out, int64_t out_step) {
    const size_t a_bytes = 2 * (size_t)a_step, b_bytes = two ? 128 : 64, out_bytes = 4 * (size_t)out_step;
    WRITTEN();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += pairs, a += 2 * pairs, b += pairs * (two ? PANEL : LANES)) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (two) {
            _tile_loadd(7, b + LANES, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (more) {
            _tile_loadd(5, a + 16 * a_step, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if (two) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out, out_bytes);
    if (two) _tile_stored(1, out + LANES, out_bytes);
    if (more) {
        _tile_stored(2, out + 16 * out_step, out_bytes);
        if (two) _tile_stored(3, out + 16 * out_step + LANES, out_bytes);
    }
    WRITTEN();
}

/* `rows` rows of a, rounded up to a multiple of ROWS, times a packed matrix. */
INLINE void F(multiply)(const INPUT_T *a, int64_t a_step, const Matrix *b, int rows, float *out, int64_t out_step, int then,
                        int pairs) {
    const float *panel = b->values;
    const int64_t depth = F(depth)(b->rows);
    for (int64_t column = 0; column < b->columns; column += PANEL) {
        const int two = b->columns - column > LANES;
        for (int i = 0; i < rows; i += 2 * ROWS) {
            float *to = out + i * out_step + column;
            F(multiply_tiles)(a + i * a_step, a_step, panel, depth, pairs, rows - i > ROWS, two, to, out_step);
            if (then == AS_IS) continue;
            for (int j = i; j < rows && j < i + 2 * ROWS; j++, to += out_step) {
                F(store_f)(to, F(after)(F(load_f)(to), then));
                if (two) F(store_f)(to + LANES, F(after)(F(load_f)(to + LANES), then));
            }
        }
        panel += depth * (two ? PANEL : LANES);
    }
}
#else
/* Rows a of a matrix times `depth` rows of one or two registers each, to rows of `out`. */
INLINE void F(multiply_rows)(const INPUT_T *a, int64_t a_step, const float *b, int64_t depth, int registers, float *out,
                             int64_t out_step, int then) {
    VF sums[ROWS][2] = {{{0}}};
#if PRODUCTS_BF16
    for (int64_t k = 0; k < depth; k += 2, b += registers * LANES) {
        __m512bh first, second, pair;
        __builtin_memcpy(&first, b, sizeof(first));
        if (registers > 1) __builtin_memcpy(&second, b + LANES, sizeof(second));
        for (int i = 0; i < ROWS; i++) {
            int32_t two;
            __builtin_memcpy(&two, a + i * a_step + k, sizeof(two));
            const __m512i all = _mm512_set1_epi32(two);
            __builtin_memcpy(&pair, &all, sizeof(pair));
            sums[i][0] = (VF)_mm512_dpbf16_ps((__m512)sums[i][0], pair, first);
            if (registers > 1) sums[i][1] = (VF)_mm512_dpbf16_ps((__m512)sums[i][1], pair, second);
        }
    }
#else
    for (int64_t k = 0; k < depth; k++, b += registers * LANES) {
        const VF first = F(load_f)(b), second = registers > 1 ? F(load_f)(b + LANES) : first;
        for (int i = 0; i < ROWS; i++) {
            const float x = a[i * a_step + k];
            sums[i][0] += x * first;
            if (registers > 1) sums[i][1] += x * second;
        }
    }
#endif
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < registers; j++) {
            F(store_f)(out + i * out_step + j * LANES, F(after)(sums[i][j], then));
        }
}

/* `rows` rows of a, rounded up to a multiple of ROWS, times a packed matrix. */
INLINE void F(multiply)(const INPUT_T *a, int64_t a_step, const Matrix *b, int rows, float *out, int64_t out_step, int then,
                        int pairs) {
    (void)pairs;
    const float *panel = b->values;
    for (int64_t column = 0; column < b->columns; column += PANEL) {
        const int two = b->columns - column > LANES;
        for (int i = 0; i < rows; i += ROWS) {
            const INPUT_T *from = a + i * a_step;
            float *to = out + i * out_step + column;
            if (two) F(multiply_rows)(from, a_step, panel, b->rows, 2, to, out_step, then);
            else F(multiply_rows)(from, a_step, panel, b->rows, 1, to, out_step, then);
        }
        panel += F(depth)(b->rows) * (two ? PANEL : LANES);
    }
}
#endif

/* Lay the transpose of a matrix (columns, rows) out for `multiply`, its columns scaled; padding is zero. */
static void F(pack)(const float *matrix, const float *scale, Matrix *b) {
    float *out = b->values;
    for (int64_t column = 0; column < b->columns; column += PANEL) {
        const int64_t wide = b->columns - column > LANES ? PANEL : LANES;
        for (int64_t row = 0; row < F(depth)(b->rows) * (PRODUCTS_BF16 ? 2 : 1); row += PRODUCTS_BF16 ? 2 : 1)
            for (int64_t i = column; i < column + wide; i++, out++) {
                const float by = i < b->columns ? (scale ? scale[i] : 1.0f) : 0.0f;
#if PRODUCTS_BF16
                float two[2] = {0};
                for (int j = 0; j < 2 && row + j < b->rows && i < b->columns; j++) two[j] = matrix[i * b->rows + row + j] * by;
                const F(vh) pair = F(narrow)((VF){two[0], two[1]});
                __builtin_memcpy(out, &pair, sizeof(*out));
#else
                *out = i < b->columns ? matrix[i * b->rows + row] * by : 0.0f;
#endif
            }
    }
}

/* A pixel's channels, normalized. */
INLINE void F(normalize)(const Block *b, const STORE_T *x, float *out) {
    VF sum = {0}, square = {0};
    for (int64_t ch = 0; ch < b->channels; ch += LANES) {
        const VF value = F(load)(x + ch, (int)(b->channels - ch < LANES ? b->channels - ch : LANES));
        F(store_f)(out + ch, value);
        sum += value;
    }
    const float mean = F(total)(sum) / (float)b->channels;
    for (int64_t ch = 0; ch < b->channels; ch += LANES) {
        const VF value = (F(load_f)(out + ch) - mean) * F(load_f)(b->mask + ch);
        F(store_f)(out + ch, value);
        square += value * value;
    }
    const float scale = 1.0f / sqrtf(F(total)(square) / (float)b->channels + b->epsilon);
    for (int64_t ch = 0; ch < b->channels; ch += LANES)
        F(store_f)(out + ch, F(load_f)(out + ch) * (scale * F(load_f)(b->norm + ch)) + F(load_f)(b->bias + ch));
}

/* Some pixels of a row and two more on each side, normalized; zero outside of the image. */
static void F(normalize_row)(const Block *b, int64_t image, int64_t row, int64_t left, int64_t right, float *out) {
    const STORE_T *x = (const STORE_T *)b->x + (image * b->height + row) * b->width * b->channels;
    for (int64_t column = left - 2; column < right + 2; column++, out += b->padded) {
        if (column < 0 || column >= b->width || row < 0 || row >= b->height) memset(out, 0, (size_t)b->padded * sizeof(float));
        else F(normalize)(b, x + column * b->channels, out);
    }
}

/* The depth-wise 5x5 convolution of five rows. */
static void F(convolve)(const Block *b, const float *const rows[5], int count, float *out) {
    const int64_t pad = b->padded;
    for (int64_t ch = 0; ch < b->channels; ch += LANES)
        for (int start = 0; start < count; start += PIXELS) {
            VF sums[PIXELS] = {{0}};
            for (int dy = 0; dy < 5; dy++) {
                const float *x = rows[dy] + start * pad + ch, *kernel = b->kernel + 5 * dy * pad + ch;
                VF weights[5];
                for (int dx = 0; dx < 5; dx++) weights[dx] = F(load_f)(kernel + dx * pad);
#pragma GCC unroll 16
                for (int i = 0; i < PIXELS + 4; i++) {
                    const VF value = F(load_f)(x + i * pad);
#pragma GCC unroll 8
                    for (int dx = 0; dx < 5; dx++)
                        if (i - dx >= 0 && i - dx < PIXELS) sums[i - dx] += value * weights[dx];
                }
            }
            for (int i = 0; i < PIXELS; i++) F(store_f)(out + (start + i) * pad + ch, sums[i]);
        }
}

/* Scratch memory of a tile: a ring of normalized rows, and results of products. */
typedef struct {
    float *ring, *zeros, *shifted, *one, *two, *wide;
    uint16_t *inputs; /* of a product, in bfloat16 */
    int pairs; /* of rows of a matrix in a tile */
    void *memory;
} F(Rows);

INLINE int F(rows_of)(const Block *b, F(Rows) *s) {
    const int64_t pad = b->padded, width = b->tile + 2 * PIXELS, row = (width + 4) * pad;
    const int64_t most = b->hidden > pad ? b->hidden : pad;
    const int64_t floats = 6 * row + 3 * width * pad + b->hidden * width + (PRODUCTS_BF16 ? most * width / 2 : 0);
    s->memory = calloc((size_t)floats + 16, sizeof(float));
    if (!s->memory) {
        __atomic_store_n(b->failed, NO_MEMORY, __ATOMIC_RELAXED);
        return 0;
    }
    s->ring = (float *)(((uintptr_t)s->memory + 63) & ~(uintptr_t)63);
    s->zeros = s->ring + 5 * row;
    s->shifted = s->zeros + row;
    s->one = s->shifted + width * pad;
    s->two = s->one + width * pad;
    s->wide = s->two + width * pad;
    s->inputs = (uint16_t *)(s->wide + b->hidden * width);
#if TILES
    s->pairs = F(pairs)(b);
    F(begin_tiles)(s->pairs);
#else
    s->pairs = 0;
#endif
    return 1;
}

INLINE void F(end_rows)(const F(Rows) *s) {
#if TILES
    _tile_release();
#endif
    free(s->memory);
}

/* Normalize and convolve the pixels of a row; rows of a tile come one after the other, from its first. */
INLINE void F(shift_row)(const Block *b, const Patch *p, int64_t row, F(Rows) *s) {
    const int64_t step = (b->tile + 2 * PIXELS + 4) * b->padded;
    for (int64_t y = row == p->top ? row - 2 : row + 2; y <= row + 2; y++)
        F(normalize_row)(b, p->image, y, p->left, p->right, s->ring + (y + 5) % 5 * step);
    const float *rows[5];
    for (int dy = 0; dy < 5; dy++) rows[dy] = s->ring + (row + dy + 3) % 5 * step;
    F(convolve)(b, rows, (int)(p->right - p->left), s->shifted);
}

/* Weights, weights times values, and gates of all pixels, with the sums of the weights over the chunks of rows. */
static void F(project)(const Scan *scan, int64_t begin, int64_t end) {
    const Block local = *scan->block, *b = &local;
    const Scan *c = scan;
    const int64_t pad = b->padded;
    F(Rows) s;
    F(vi) within = {0}; /* -1: all keys so far */
    within -= 1;
    if (!F(rows_of)(b, &s)) return;
    for (int64_t i = begin; i < end; i++) {
        const Patch p = patch_at(b, i);
        const int count = (int)(p.right - p.left);
        for (int64_t row = p.top; row < p.bottom; row++) {
            float *keys = s.one, *values = s.two, *gates = s.wide;
            F(shift_row)(b, &p, row, &s);
            const INPUT_T *shifted = F(inputs)(s.shifted, pad, count, s.inputs);
            F(multiply)(shifted, pad, &b->matrices[0], count, gates, pad, SIGMOID, s.pairs);
            F(multiply)(shifted, pad, &b->matrices[1], count, keys, pad, AS_IS, s.pairs);
            F(multiply)(shifted, pad, &b->matrices[2], count, values, pad, AS_IS, s.pairs);
            float *states = c->states + ((p.image * c->grid.chunks + row * c->grid.line_chunks) + p.part) * 4 * pad;
            for (int64_t ch = 0; ch < b->channels; ch += LANES) {
                const VF decay = F(load_f)(c->high + ch);
                const float *to_start = c->power + ch;
                PAIR ahead = {{0}, {0}}, behind = {{0}, {0}};
                for (int l = 0; l < count; l++) {
                    const VF key = F(load_f)(keys + l * pad + ch);
                    within &= (key <= b->limit) & (key >= -b->limit);
                    VF e = F(exp2)(key * LOG2E), ev = e * F(load_f)(values + l * pad + ch);
#if STORE_BF16
                    e = F(widen)(F(narrow)(e));
                    ev = F(widen)(F(narrow)(ev));
#endif
                    F(store_f)(keys + l * pad + ch, e);
                    F(store_f)(values + l * pad + ch, ev);
                    const PAIR x = {e, ev};
                    ahead = F(add_scaled)(x, decay, ahead);
                    behind = F(add_scaled)(behind, F(load_f)(to_start + l * pad), x);
                }
                F(store_pair)(states + ch, pad, ahead);
                F(store_pair)(states + 2 * pad + ch, pad, behind);
            }
            const int64_t at = ((p.image * b->height + row) * b->width + p.left) * b->channels;
            const float *from[3] = {keys, values, gates};
            for (int j = 0; j < 3; j++) {
                STORE_T *to = (STORE_T *)b->maps[j] + at;
                for (int l = 0; l < count; l++, to += b->channels)
                    for (int64_t ch = 0; ch < b->channels; ch += LANES)
                        F(store_past)(to + ch, F(load_f)(from[j] + l * pad + ch), LANES_AT(ch), c->past_caches);
            }
        }
    }
    F(end_rows)(&s);
    for (int i = 0; i < LANES; i++)
        if (!within[i]) __atomic_store_n(b->failed, OUT_OF_RANGE, __ATOMIC_RELAXED);
}

/* Add the product of what was mixed and a matrix to the features; items are stretches of `tile` pixels. */
static void F(output)(const Scan *c, int64_t begin, int64_t end) {
    const Block local = *c->block, *b = &local;
    const int64_t pad = b->padded, pixels = b->images * b->height * b->width;
    F(Rows) s;
    if (!F(rows_of)(b, &s)) return;
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i * b->tile, at = first * b->channels;
        const int count = (int)(pixels - first < b->tile ? pixels - first : b->tile);
        const STORE_T *y = (const STORE_T *)b->maps[1] + at;
        STORE_T *x = (STORE_T *)b->out + at;
        for (int l = 0; l < count; l++)
            for (int64_t ch = 0; ch < b->channels; ch += LANES)
                F(store_f)(s.shifted + l * pad + ch, F(load)(y + l * b->channels + ch, LANES_AT(ch)));
        F(multiply)(F(inputs)(s.shifted, pad, count, s.inputs), pad, &b->matrices[3], count, s.one, pad, AS_IS, s.pairs);
        for (int l = 0; l < count; l++)
            for (int64_t ch = 0; ch < b->channels; ch += LANES) {
                STORE_T *to = x + l * b->channels + ch;
                F(store)(to, F(load)(to, LANES_AT(ch)) + F(load_f)(s.one + l * pad + ch), LANES_AT(ch));
            }
    }
    F(end_rows)(&s);
}

/* The features and what the channel mix adds to them. */
static void F(channels)(const Scan *c, int64_t begin, int64_t end) {
    const Block local = *c->block, *b = &local;
    const int64_t pad = b->padded;
    F(Rows) s;
    if (!F(rows_of)(b, &s)) return;
    for (int64_t i = begin; i < end; i++) {
        const Patch p = patch_at(b, i);
        const int count = (int)(p.right - p.left);
        for (int64_t row = p.top; row < p.bottom; row++) {
            F(shift_row)(b, &p, row, &s);
            const INPUT_T *shifted = F(inputs)(s.shifted, pad, count, s.inputs);
            F(multiply)(shifted, pad, &b->matrices[0], count, s.one, pad, SIGMOID, s.pairs);
            F(multiply)(shifted, pad, &b->matrices[1], count, s.wide, b->hidden, SQUARED_RELU, s.pairs);
            const INPUT_T *wide = F(inputs)(s.wide, b->hidden, count, s.inputs);
            F(multiply)(wide, b->hidden, &b->matrices[2], count, s.two, pad, AS_IS, s.pairs);
            const int64_t at = ((p.image * b->height + row) * b->width + p.left) * b->channels;
            const STORE_T *x = (const STORE_T *)b->x + at;
            STORE_T *out = (STORE_T *)b->out + at;
            for (int l = 0; l < count; l++)
                for (int64_t ch = 0; ch < b->channels; ch += LANES) {
                    const VF change = F(load_f)(s.one + l * pad + ch) * F(load_f)(s.two + l * pad + ch);
                    const VF y = F(load)(x + l * b->channels + ch, LANES_AT(ch)) + change;
                    F(store_past)(out + l * b->channels + ch, y, LANES_AT(ch), c->past_caches);
                }
        }
    }
    F(end_rows)(&s);
}

#undef INPUT_T
#undef ROWS
#undef PANEL
#undef PIXELS
#undef WRITTEN

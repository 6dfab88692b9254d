/* The two halves of an R-RWKV block in inference, called through ctypes; included by biwkv.c. */

#define BAND 64 /* rows of a patch */
#define RING 12288 /* floats of a row of normalized pixels above which patches are narrow */
#define REACH 70.0 /* largest exponent in sums of weights that are not scaled by the largest one */

/* What both halves take beside features: normalization (C), kernel (C, 25), and for the last matrix a scale (C). */
typedef struct {
    const float *norm, *bias, *kernel, *scale;
    double epsilon;
} Common;

/* Enough floats for a packed matrix. */
static int64_t matrix_floats(const Matrix *m) {
    return ceil_div(m->rows, PADDING) * PADDING * ceil_div(m->columns, PADDING) * PADDING;
}

static int make_block(Block *b, const Common *common, const Phases *p, const float *const *matrices, int count) {
    const int64_t n = b->channels, pad = b->padded = ceil_div(n, PADDING) * PADDING;
    int64_t floats = 28 * pad;
    for (int i = 0; i < count; i++) floats += matrix_floats(&b->matrices[i]);
    b->norm = calloc((size_t)floats, sizeof(float));
    if (!b->norm) return 0;
    b->bias = b->norm + pad;
    b->mask = b->bias + pad;
    b->kernel = b->mask + pad;
    float *next = b->kernel + 25 * pad;
    for (int64_t i = 0; i < n; i++) {
        b->norm[i] = common->norm[i];
        b->bias[i] = common->bias[i];
        b->mask[i] = 1;
        for (int64_t j = 0; j < 25; j++) b->kernel[j * pad + i] = common->kernel[25 * i + j];
    }
    for (int i = 0; i < count; i++) {
        b->matrices[i].values = next;
        p->pack(matrices[i], i == count - 1 ? common->scale : NULL, &b->matrices[i]);
        next += matrix_floats(&b->matrices[i]);
    }
    b->epsilon = (float)common->epsilon;
    b->bands = ceil_div(b->height, BAND);
    return 1;
}

/* Add to features x (images, height, width, channels) their spatial mix, by a scan along rows and one along columns.
   `e`, `ev` and `gate` are memory of the size of x. Returns 0, NO_MEMORY or OUT_OF_RANGE: keys, decays or bonuses are
   so large that the weights of tokens need a scale. Then x is unchanged. */
EXPORT int rwkv_spatial_mix(void *x, void *e, void *ev, void *gate, const float *norm, const float *bias,
                            const float *kernel, const float *receptance, const float *key, const float *value,
                            const float *output, const float *gamma, const float *decay, const float *first,
                            double epsilon, int64_t images, int64_t height, int64_t width, int64_t channels, int bf16,
                            int isa, int threads) {
    const Common common = {norm, bias, kernel, gamma, epsilon};
    const float *const matrices[] = {receptance, key, value, output};
    const Phases *p = phases_of(isa, bf16);
    int failed = 0;
    Block b = {.images = images, .height = height, .width = width, .channels = channels, .x = x, .out = x,
               .maps = {e, ev, gate}, .failed = &failed};
    Call a = {decay, first, e, ev, gate, NULL, NULL, images, height, width, channels, 2, 0, bf16, isa, threads, &b};
    Scan rows = make_scan(&a, 0), columns = make_scan(&a, 1);
    const double reached = reach(&rows) > reach(&columns) ? reach(&rows) : reach(&columns);
    for (int i = 0; i < 4; i++) b.matrices[i] = (Matrix){NULL, channels, channels};
    if (!(reached <= LIMIT)) return OUT_OF_RANGE;
    b.limit = (float)(REACH - reached);
    b.parts = rows.grid.line_chunks;
    b.tile = ceil_div(width, b.parts);
    const int ready = make_block(&b, &common, p, matrices, 4);
    b.hidden = b.padded;
    a.states = malloc((size_t)state_offset(&a, 2) * sizeof(float));
    if (!ready || !a.states || !prepare(&rows) || !prepare(&columns)) failed = NO_MEMORY;
    if (!failed) {
        const int team = useful_threads(&rows, threads);
        rows.carried = rows.states = a.states + state_offset(&a, 0);
        columns.carried = columns.states = a.states + state_offset(&a, 1);
        rows.next = &columns;
        rows.y = columns.v = columns.y = ev;
        columns.r = gate;
        run(p->project, &rows, images * b.bands * b.parts, team);
        if (!failed) {
            run(p->carry, &rows, 2 * images * rows.padded / p->lanes, team);
            run(p->gather, &rows, images * columns.grid.line_chunks * b.parts * rows.grid.channel_tiles, team);
            run(p->carry, &columns, 2 * images * rows.padded / p->lanes, team);
            run(p->mix, &columns, images * columns.grid.tiles, team);
            run(p->output, &columns, ceil_div(images * height * width, b.tile), team);
        }
    }
    free(rows.decay);
    free(columns.decay);
    free(a.states);
    free(b.norm);
    return failed;
}

/* Write features x (images, height, width, channels) and what their channel mix adds to `out`, which is not x. Returns 0
   or NO_MEMORY. */
EXPORT int rwkv_channel_mix(const void *x, void *out, const float *norm, const float *bias, const float *kernel,
                            const float *receptance, const float *key, const float *value, const float *gamma,
                            double epsilon, int64_t images, int64_t height, int64_t width, int64_t channels,
                            int64_t hidden, int bf16, int isa, int threads) {
    const Common common = {norm, bias, kernel, gamma, epsilon};
    const float *const matrices[] = {receptance, key, value};
    const Phases *p = phases_of(isa, bf16);
    int failed = 0;
    Block b = {.images = images, .height = height, .width = width, .channels = channels, .x = x, .out = out,
               .hidden = ceil_div(hidden, PADDING) * PADDING, .failed = &failed};
    b.matrices[0] = (Matrix){NULL, channels, channels};
    b.matrices[1] = (Matrix){NULL, channels, hidden};
    b.matrices[2] = (Matrix){NULL, hidden, channels};
    if (!make_block(&b, &common, p, matrices, 3)) return NO_MEMORY;
    const int64_t most = RING / 5 / b.padded > 24 ? RING / 5 / b.padded : 24;
    b.parts = ceil_div(width, most);
    b.tile = ceil_div(width, b.parts);
    Scan c = {.batch = images, .tokens = height * width, .channels = channels, .block = &b};
    c.past_caches = images * c.tokens * channels * (bf16 ? 2 : 4) >= LARGE;
    run(p->channels, &c, images * b.bands * b.parts, useful_threads(&c, threads));
    free(b.norm);
    return failed;
}

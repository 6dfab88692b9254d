/* Bi-WKV in log space and double, token by token: slow, and right for any finite decay, bonus and key. A decayed sum is
   kept as e^scale times two values; scale is the largest exponent met so far. Included by biwkv.c. */

/* stands for "nothing summed yet": finite, so that the difference of two of them is defined */
#define NOTHING -1e200

typedef struct {
    double scale, one, v;
} Sum;

typedef struct {
    Scan scan; /* first, so that a phase finds the rest */
    int bf16;
} RobustScan;

static Sum sum_of(Sum a, Sum b) {
    if (b.scale > a.scale) {
        const Sum other = a;
        a = b;
        b = other;
    }
    const double ratio = exp(b.scale - a.scale);
    return (Sum){a.scale, a.one + ratio * b.one, a.v + ratio * b.v};
}

static Sum shifted(Sum a, double by) { return (Sum){a.scale + by, a.one, a.v}; }

static double read_value(const void *p, int64_t i, int bf16) {
    if (!bf16) return ((const float *)p)[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

static void write_value(void *p, int64_t i, double value, int bf16) {
    const float x = (float)value;
    uint32_t bits;
    if (!bf16) {
        ((float *)p)[i] = x;
        return;
    }
    __builtin_memcpy(&bits, &x, 4);
    ((uint16_t *)p)[i] = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Index of the t-th token of an item, which is one channel of one image. */
static int64_t token_index(const Scan *c, int64_t item, int64_t t) {
    const Grid *g = &c->grid;
    return item / c->channels * c->tokens * c->channels + item % c->channels + t / g->line_length * g->line_stride +
           t % g->line_length * g->token_stride;
}

/* The sums before and after every token. */
static void two_sided(const Sum *x, Sum *before, Sum *after, int64_t tokens, double w) {
    const Sum nothing = {NOTHING, 0, 0};
    Sum sum = nothing;
    for (int64_t t = 0; t < tokens; t++) {
        before[t] = sum;
        sum = sum_of(shifted(sum, -w), x[t]);
    }
    sum = nothing;
    for (int64_t t = tokens - 1; t >= 0; t--) {
        after[t] = sum;
        sum = sum_of(shifted(sum, -w), x[t]);
    }
}

static void read_tokens(const Scan *c, int64_t item, int bf16, Sum *x) {
    for (int64_t t = 0; t < c->tokens; t++) {
        const int64_t at = token_index(c, item, t);
        x[t] = (Sum){read_value(c->k, at, bf16), 1, read_value(c->v, at, bf16)};
    }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void robust_forward_items(const Scan *c, int64_t begin, int64_t end) {
    const int bf16 = ((const RobustScan *)c)->bf16;
    Sum *x = malloc((size_t)(3 * c->tokens) * sizeof(Sum)), *before = x + c->tokens, *after = before + c->tokens;
    if (!x) {
        __atomic_store_n(c->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        const double w = c->w[i % c->channels], u = c->u[i % c->channels];
        read_tokens(c, i, bf16, x);
        two_sided(x, before, after, c->tokens, w);
        for (int64_t t = 0; t < c->tokens; t++) {
            const int64_t at = token_index(c, i, t);
            const Sum total = sum_of(sum_of(before[t], after[t]), shifted(x[t], u));
            double y = total.v / total.one;
            if (c->r) y *= sigmoid(read_value(c->r, at, bf16));
            write_value(c->y, at, y, bf16);
        }
    }
    free(x);
}

/* The operator is its own transpose: the same sums, with minus the log-denominator for the keys. */
static void robust_backward_items(const Scan *c, int64_t begin, int64_t end) {
    const int bf16 = ((const RobustScan *)c)->bf16;
    const int64_t n = c->tokens;
    Sum *x = malloc((size_t)(6 * n) * sizeof(Sum)), *before = x + n, *after = before + n, *z = after + n;
    Sum *z_before = z + n, *z_after = z_before + n;
    if (!x) {
        __atomic_store_n(c->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        const double w = c->w[i % c->channels], u = c->u[i % c->channels];
        double share_w = 0, share_u = 0;
        read_tokens(c, i, bf16, x);
        two_sided(x, before, after, n, w);
        for (int64_t t = 0; t < n; t++) {
            const int64_t at = token_index(c, i, t);
            const Sum total = sum_of(sum_of(before[t], after[t]), shifted(x[t], u));
            const double y = total.v / total.one;
            double gy = read_value(c->gy, at, bf16);
            if (c->r) {
                const double gate = sigmoid(read_value(c->r, at, bf16));
                write_value(c->gr, at, gy * y * gate * (1 - gate), bf16);
                gy *= gate;
            }
            const double g = gy / total.one;
            z[t] = (Sum){-total.scale, g, g * y};
            share_u += exp(u + x[t].scale - total.scale) * g * (x[t].v - y);
        }
        two_sided(z, z_before, z_after, n, w);
        for (int64_t t = 0; t < n; t++) {
            const int64_t at = token_index(c, i, t);
            const Sum total = sum_of(sum_of(z_before[t], z_after[t]), shifted(z[t], u));
            const double weight = exp(x[t].scale + total.scale);
            const double gk = weight * (x[t].v * total.one - total.v);
            write_value(c->gv, at, weight * total.one, bf16);
            write_value(c->gk, at, c->add_gk ? gk + read_value(c->gk, at, bf16) : gk, bf16);
            /* a pair of tokens decays once for every token between them: sum over that token */
            share_w -= exp(before[t].scale + z_after[t].scale - w) *
                       (before[t].v * z_after[t].one - before[t].one * z_after[t].v);
            share_w -= exp(after[t].scale + z_before[t].scale - w) *
                       (after[t].v * z_before[t].one - after[t].one * z_before[t].v);
        }
        c->shares[i] = share_w;
        c->shares[c->batch * c->channels + i] = share_u;
    }
    free(x);
}

/* As Scan says; the gate included. Returns 0 where memory is short. */
static int robust_forward(const Scan *c, int bf16, int threads) {
    int failed = 0;
    RobustScan robust = {*c, bf16};
    robust.scan.failed = &failed;
    run(robust_forward_items, &robust.scan, c->batch * c->channels, threads);
    return !failed;
}

static int robust_backward(const Scan *c, float *gw, float *gu, int bf16, int threads) {
    const int64_t items = c->batch * c->channels;
    int failed = 0;
    RobustScan robust = {*c, bf16};
    robust.scan.failed = &failed;
    robust.scan.shares = malloc((size_t)(2 * items) * sizeof(double));
    if (!robust.scan.shares) return 0;
    run(robust_backward_items, &robust.scan, items, threads);
    for (int64_t ch = 0; ch < c->channels && !failed; ch++) {
        double w = 0, u = 0;
        for (int64_t image = 0; image < c->batch; image++) {
            w += robust.scan.shares[image * c->channels + ch];
            u += robust.scan.shares[items + image * c->channels + ch];
        }
        gw[ch] = (float)w;
        gu[ch] = (float)u;
    }
    free(robust.scan.shares);
    return !failed;
}

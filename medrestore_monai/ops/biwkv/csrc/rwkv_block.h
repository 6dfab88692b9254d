/* What is around the scans of an R-RWKV block in inference: features are normalized, shifted and multiplied by matrices
   patch after patch, row after row of it. */

/* Rows (the inputs) of columns (the outputs), laid out by `pack`. */
typedef struct {
    float *values;
    int64_t rows, columns;
} Matrix;

typedef struct Block {
    int64_t images, height, width, channels, padded, hidden; /* hidden: floats of a pixel in the widest product */
    const void *x; /* features (images, height, width, channels) */
    void *out, *maps[3]; /* results; weights, weights times values, and gates */
    float *norm, *bias, *mask, *kernel; /* per channel (padded): normalization, 1 where there is a channel, (25, padded) */
    Matrix matrices[4];
    float epsilon, limit; /* limit: of the absolute keys */
    int64_t tile, parts, bands; /* most pixels in a patch's row; patches side by side and one below the other */
    int *failed;
} Block;

typedef struct {
    int64_t image, part, left, right, top, bottom;
} Patch;

static Patch patch_at(const Block *b, int64_t i) {
    const int64_t part = i % b->parts, band = i / b->parts % b->bands;
    return (Patch){i / b->parts / b->bands, part, part * b->width / b->parts, (part + 1) * b->width / b->parts,
                   band * b->height / b->bands, (band + 1) * b->height / b->bands};
}

enum { AS_IS, SQUARED_RELU, SIGMOID }; /* what follows a product */

/* norm.cu -- batch normalization and local response normalization of arrays seen as (outer, channels, inner).
 *
 * The twin of csrc/norm.c and kernels/norm.inc. Batch normalization goes in three steps: blocks sum up parts of a channel, one
 * thread a channel adds the parts up in their order, and all elements are mapped. Sums are of doubles. */

#define LANES 32 /* channels last: channels that a block has side by side */
#define ROWS 8
#define BLOCK 256 /* LANES * ROWS */

/* What the mapping needs of each channel: COEFFICIENTS arrays of `channels` Acc. */
enum { MEAN, SCALE, SHIFT, CONSTANT, SLOPE, COEFFICIENTS };

INLINE Acc relu_slope(Acc g, Acc y) { return y <= 0 ? 0 : g; }

/* Sums up both parts of `element` over a share of a channel; grid (channels, parts) and, channels last, (channels / LANES,
 * parts). parts_ is (parts, 2, channels). */
template <class F>
INLINE void sum_channel(F element, double *parts, int64 outer, int64 channels, int64 inner, int64 rows_of_part)
{
    const int64 first = (int64)blockIdx.y * rows_of_part, end = least(outer * (inner == 1 ? 1 : inner), first + rows_of_part);
    double a = 0, b = 0;
    if (inner == 1) {
        const int lane = (int)threadIdx.x % LANES, row = (int)threadIdx.x / LANES;
        const int64 c = (int64)blockIdx.x * LANES + lane;
        if (c < channels)
            for (int64 n = first + row; n < end; n += ROWS)
                element(c, n * channels + c, &a, &b);
        __shared__ double sums[2][BLOCK];
        sums[0][threadIdx.x] = a;
        sums[1][threadIdx.x] = b;
        __syncthreads();
        if (row == 0 && c < channels) {
            for (int r = 1; r < ROWS; r++) {
                a += sums[0][r * LANES + lane];
                b += sums[1][r * LANES + lane];
            }
            parts[((int64)blockIdx.y * 2 + 0) * channels + c] = a;
            parts[((int64)blockIdx.y * 2 + 1) * channels + c] = b;
        }
        return;
    }
    const int64 c = blockIdx.x;
    for (int64 i = first + threadIdx.x; i < end; i += BLOCK) {
        const Index n = (Index)i / (Index)inner;
        element(c, (n * channels + c) * inner + (i - (int64)n * inner), &a, &b);
    }
    a = Team<BLOCK>::sum(a);
    b = Team<BLOCK>::sum(b);
    if (threadIdx.x == 0) {
        parts[((int64)blockIdx.y * 2 + 0) * channels + c] = a;
        parts[((int64)blockIdx.y * 2 + 1) * channels + c] = b;
    }
}

/* x less the channel's first element, so that a large mean costs no digits. */
struct Moments {
    const Real *x;
    int64 inner;
    __device__ void operator()(int64 c, int64 i, double *a, double *b) const
    {
        const double d = (double)load(x + i) - (double)load(x + c * inner);
        *a += d;
        *b += d * d;
    }
};

KERNEL norm_moments(const Real *x, double *parts, int64 outer, int64 channels, int64 inner, int64 rows_of_part)
{
    sum_channel(Moments{x, inner}, parts, outer, channels, inner, rows_of_part);
}

INLINE void set_scale(Acc *coefficients, const Acc *weight, const Acc *bias, double mean, double var, double eps,
                      int64 channels, int64 c)
{
    const double inverse = 1 / sqrt(var + eps), scale = weight ? (double)weight[c] * inverse : inverse;
    const double lost = mean - (double)(Acc)mean; /* what the mean loses in its own type goes into the shift */
    coefficients[MEAN * channels + c] = (Acc)mean;
    coefficients[SCALE * channels + c] = (Acc)scale;
    coefficients[SHIFT * channels + c] = (Acc)((bias ? (double)bias[c] : 0) - (lost == lost ? lost * scale : 0));
}

/* training: mean and variance (the biased one) from the parts, else they are given */
KERNEL norm_prepare(const Real *x, const double *parts, int64 count, const Acc *weight, const Acc *bias, double *mean,
                    double *var, Acc *coefficients, int64 outer, int64 channels, int64 inner, double eps, int64 training)
{
    EACH(c, channels)
    {
        if (training) {
            double sum = 0, squares = 0;
            for (int64 k = 0; k < count; k++) {
                sum += parts[(k * 2 + 0) * channels + c];
                squares += parts[(k * 2 + 1) * channels + c];
            }
            const double n = (double)(outer * inner), spread = squares / n - sum / n * (sum / n);
            mean[c] = (double)load(x + c * inner) + sum / n;
            var[c] = spread < 0 ? 0 : spread; /* NaN stays */
        }
        set_scale(coefficients, weight, bias, mean[c], var[c], eps, channels, c);
    }
}

KERNEL norm_apply(const Real *x, Real *y, const Acc *coefficients, int64 channels, int64 inner, int64 relu, int64 n)
{
    EACH(i, n)
    {
        const Index c = (Index)i / (Index)inner % (Index)channels;
        const Acc v = (load(x + i) - coefficients[MEAN * channels + c]) * coefficients[SCALE * channels + c] +
                      coefficients[SHIFT * channels + c];
        store(y + i, relu && v <= 0 ? (Acc)0 : v);
    }
}

/* Sums of dy and of dy (x - mean); nothing of dy where a ReLU after the normalization let nothing through. */
struct Products {
    const Real *dy, *x;
    const Acc *coefficients;
    int64 channels, relu;
    __device__ void operator()(int64 c, int64 i, double *a, double *b) const
    {
        const Acc d = load(x + i) - coefficients[MEAN * channels + c];
        Acc g = load(dy + i);
        if (relu)
            g = relu_slope(g, d * coefficients[SCALE * channels + c] + coefficients[SHIFT * channels + c]);
        *a += (double)g;
        *b += (double)g * (double)d;
    }
};

KERNEL norm_products(const Real *dy, const Real *x, const Acc *coefficients, double *parts, int64 outer, int64 channels,
                     int64 inner, int64 rows_of_part, int64 relu)
{
    sum_channel(Products{dy, x, coefficients, channels, relu}, parts, outer, channels, inner, rows_of_part);
}

KERNEL norm_slopes(const double *parts, int64 count, const Acc *weight, const double *mean, const double *var,
                   Acc *coefficients, Acc *dweight, Acc *dbias, int64 outer, int64 channels, int64 inner, double eps,
                   int64 training)
{
    EACH(c, channels)
    {
        double sum = 0, product = 0;
        for (int64 k = 0; k < count; k++) {
            sum += parts[(k * 2 + 0) * channels + c];
            product += parts[(k * 2 + 1) * channels + c];
        }
        const double inverse = 1 / sqrt(var[c] + eps), scale = weight ? (double)weight[c] * inverse : inverse;
        const double n = (double)(outer * inner);
        product -= sum * (mean[c] - (double)coefficients[MEAN * channels + c]);
        if (dbias)
            dbias[c] = (Acc)sum;
        if (dweight)
            dweight[c] = (Acc)(product * inverse);
        coefficients[CONSTANT * channels + c] = training ? (Acc)(-scale * sum / n) : 0;
        coefficients[SLOPE * channels + c] = training ? (Acc)(-scale * product * inverse * inverse / n) : 0;
    }
}

KERNEL norm_gradient(const Real *dy, const Real *x, Real *dx, const Acc *coefficients, int64 channels, int64 inner,
                     int64 relu, int64 n)
{
    EACH(i, n)
    {
        const Index c = (Index)i / (Index)inner % (Index)channels;
        const Acc d = load(x + i) - coefficients[MEAN * channels + c], scale = coefficients[SCALE * channels + c];
        Acc g = load(dy + i);
        if (relu)
            g = relu_slope(g, d * scale + coefficients[SHIFT * channels + c]);
        store(dx + i, g * scale + coefficients[CONSTANT * channels + c] + d * coefficients[SLOPE * channels + c]);
    }
}

/* ---- local response normalization ------------------------------------------------------------------------------------- */

/* k + alpha * sum of the squares of channels c - before .. c + after; x is the pixel's first channel. */
INLINE Acc spread_of(const Real *x, int64 c, int64 channels, int64 inner, int64 before, int64 after, Acc alpha, Acc k)
{
    Acc sum = 0;
    for (int64 j = most(c - before, 0); j < least(c + after + 1, channels); j++) {
        const Acc v = load(x + j * inner);
        sum += v * v;
    }
    return k + alpha * sum;
}

/* s^-beta; powers of 1/2 and 3/4 are common */
INLINE Acc fall_of(Acc s, Acc beta)
{
    if (beta == (Acc)0.5)
        return 1 / (Acc)sqrt(s);
    if (beta == (Acc)0.75) {
        const Acc root = (Acc)sqrt(s);
        return 1 / (root * (Acc)sqrt(root));
    }
    return beta == 1 ? 1 / s : (Acc)pow(s, -beta);
}

#define LRN_SHAPE int64 channels, int64 inner, int64 before, int64 after, double alpha, double beta, double k, int64 n
#define PIXEL(i) ((int64)((Index)(i) / (Index)inner / (Index)channels) * channels * inner + (int64)((Index)(i) % (Index)inner))
#define CHANNEL(i) ((int64)((Index)(i) / (Index)inner % (Index)channels))

KERNEL lrn(const Real *x, Real *y, LRN_SHAPE)
{
    EACH(i, n)
    {
        const Acc s = spread_of(x + PIXEL(i), CHANNEL(i), channels, inner, before, after, (Acc)alpha, (Acc)k);
        store(y + i, load(x + i) * fall_of(s, (Acc)beta));
    }
}

/* shared = dy x s^(-beta - 1), and own = dy s^-beta: every element's part in its neighbours' gradients, and in its own */
KERNEL lrn_shares(const Real *dy, const Real *x, Acc *shared, Acc *own, LRN_SHAPE)
{
    EACH(i, n)
    {
        const Acc s = spread_of(x + PIXEL(i), CHANNEL(i), channels, inner, before, after, (Acc)alpha, (Acc)k);
        const Acc kept = load(dy + i) * fall_of(s, (Acc)beta);
        own[i] = kept;
        shared[i] = kept * load(x + i) / s;
    }
}

/* Channel c stands in the sums of channels c - after .. c + before. */
KERNEL lrn_backward(const Real *x, const Acc *shared, const Acc *own, Real *dx, LRN_SHAPE)
{
    EACH(i, n)
    {
        const int64 c = CHANNEL(i);
        const Acc *column = shared + PIXEL(i);
        Acc sum = 0;
        for (int64 j = most(c - after, 0); j < least(c + before + 1, channels); j++)
            sum += column[j * inner];
        store(dx + i, own[i] - 2 * (Acc)(alpha * beta) * load(x + i) * sum);
    }
}

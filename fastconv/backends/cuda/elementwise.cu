/* elementwise.cu -- activations, maps with parameters, random masks, squared error, steps of optimisers.
 *
 * The twin of csrc/kernels/elementwise.inc and maps.inc. */

INLINE Acc relu_of(Acc v) { return v <= 0 ? 0 : v; } /* what is positive or NaN stays */
INLINE Acc sigmoid_of(Acc v)
{
    const Acc z = exp(-fabs(v)); /* never overflows */
    return (v < 0 ? z : (Acc)1) / (1 + z);
}

/* kind: relu, sigmoid, tanh */
KERNEL activate(const Real *x, Real *y, int64 n, int64 kind)
{
    EACH(i, n)
    {
        const Acc v = load(x + i);
        store(y + i, kind == 0 ? relu_of(v) : kind == 1 ? sigmoid_of(v) : (Acc)tanh(v));
    }
}

KERNEL activate_backward(const Real *dy, const Real *y, Real *dx, int64 n, int64 kind)
{
    EACH(i, n)
    {
        const Acc g = load(dy + i), v = load(y + i);
        store(dx + i, kind == 0 ? (v <= 0 ? 0 : g) : kind == 1 ? g * v * (1 - v) : g * (1 - v * v));
    }
}

/* |v|^p; 1 for p = 0, else 0 for v = 0 whatever p. Of denormals nothing is told. */
INLINE Acc power_of(Acc v, Acc p)
{
    const Acc a = fabs(v);
    if (p == 0)
        return 1;
    if (a == 0)
        return 0;
    if (p == 1)
        return a;
    if (p == 2)
        return a * a;
    return p == (Acc)0.5 ? (Acc)sqrt(a) : (Acc)pow(a, p);
}

/* log(1 + e^v) */
INLINE Acc softplus_of(Acc v)
{
    const Acc tail = log1p(exp(-fabs(v)));
    return v <= 0 ? tail : v + tail;
}

/* The kinds are fc_map's (csrc/fastconv.h). */
KERNEL map_elements(const Real *pa, const Real *pb, Real *out, int64 n, int64 kind, double parameter,
                    double second)
{
    const Acc p = (Acc)parameter, q = (Acc)second;
    EACH(i, n)
    {
        const Acc a = load(pa + i), b = load(pb + i);
        Acc v;
        switch (kind) {
        case 0: v = relu_of(a + b); break;
        case 1: v = b > 0 ? a : a * p; break;
        case 2: v = a > 0 ? a : p * (Acc)expm1(a); break;
        case 3: v = b > 0 ? a : a * (b + p); break;
        case 4: v = softplus_of(a * p) / p; break;
        case 5: v = a * sigmoid_of(b * p); break;
        case 6: v = power_of(a, p); break;
        case 7: v = a * power_of(b, p); break;
        case 8: v = a * power_of(b, p); v = signbit(b) ? -v : v; break;
        default: v = a * p + b * q; break;
        }
        store(out + i, v);
    }
}

/* out = a where b > 0, a times the channel's weight elsewhere; arrays of (outer, channels, inner). */
KERNEL prelu(const Real *pa, const Real *pb, const Real *weight, Real *out, int64 channels, int64 inner, int64 n)
{
    EACH(i, n)
    {
        const Acc a = load(pa + i);
        store(out + i, load(pb + i) > 0 ? a : a * load(weight + (channels == 1 ? 0 : i / inner % channels)));
    }
}

KERNEL dropout(const Real *a, Real *out, int64 n, uint64 key, int64 threshold, double scale)
{
    EACH(i, n) store(out + i, draw(key, (uint64)i) >= threshold ? load(a + i) * (Acc)scale : 0);
}

KERNEL rrelu(const Real *pa, const Real *pb, Real *out, int64 n, uint64 key, double low, double unit)
{
    EACH(i, n)
    {
        const Acc a = load(pa + i);
        const Acc slope = (Acc)(draw(key, (uint64)i) >> 1) * (Acc)unit + (Acc)low;
        store(out + i, load(pb + i) > 0 ? a : a * slope);
    }
}

/* ---- squared error: every block leaves a part of the sum, one block adds the parts up ---------------------------- */

#define BLOCK 256

KERNEL squared_error(const Real *a, const Real *b, Real *squares, Real *slopes, double *parts, int64 n, double scale)
{
    double sum = 0;
    EACH(i, n)
    {
        const Acc d = load(a + i) - load(b + i), square = d * d;
        sum += (double)square;
        if (squares)
            store(squares + i, square);
        if (slopes)
            store(slopes + i, d * (Acc)scale);
    }
    sum = Team<BLOCK>::sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

/* total = factor * sum of n parts; of type Real and, where that is too narrow for what follows, double */
KERNEL add_parts(const double *parts, int64 n, double *total)
{
    double sum = 0;
    for (int64 i = threadIdx.x; i < n; i += BLOCK)
        sum += parts[i];
    sum = Team<BLOCK>::sum(sum);
    if (threadIdx.x == 0)
        *total = sum;
}

KERNEL add_losses(const Real *losses, int64 n, double *parts)
{
    double sum = 0;
    EACH(i, n) sum += (double)load(losses + i);
    sum = Team<BLOCK>::sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

/* ---- optimisers: all parameters in one launch ---------------------------------------------------------------------- */

#define CHUNK 4096 /* elements of a block */

/* One parameter: addresses of its arrays, how many elements they have, and which block is its first. */
struct Parameter {
    Real *value;
    const Real *grad;
    void *first, *second; /* velocity, Real; or means of gradient and square, Acc: in 16 bits squares are soon 0 */
    int64 n, block;
    double correction, slower_correction; /* Adam's */
};

/* The parameter that this block works at: the last one that begins at or before it. */
INLINE const Parameter *parameter_of_block(const Parameter *all, int64 count)
{
    int64 low = 0, high = count;
    while (high - low > 1) {
        const int64 middle = (low + high) / 2;
        if (all[middle].block <= (int64)blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return all + low;
}

/* values *= factor, which here are the gradients; *bad = 1 if one is then no finite number */
KERNEL unscale(const Parameter *all, int64 count, double factor_, int *bad)
{
    const Parameter *p = parameter_of_block(all, count);
    const Acc factor = (Acc)factor_;
    const int64 begin = ((int64)blockIdx.x - p->block) * CHUNK, end = least(p->n, begin + CHUNK);
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        store(p->value + i, load(p->value + i) * factor);
        const Acc v = load(p->value + i);
        if (!(v - v == 0))
            *bad = 1; /* whoever writes, writes this */
    }
}

KERNEL sgd(const Parameter *all, int64 count, double rate_, double momentum_, double decay_, int64 nesterov)
{
    const Parameter *p = parameter_of_block(all, count);
    const Acc rate = (Acc)rate_, momentum = (Acc)momentum_, decay = (Acc)decay_;
    Real *velocity = (Real *)p->first;
    const int64 begin = ((int64)blockIdx.x - p->block) * CHUNK, end = least(p->n, begin + CHUNK);
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const Acc value = load(p->value + i), g = load(p->grad + i) + decay * value;
        Acc step = g;
        if (velocity) {
            const Acc v = momentum * load(velocity + i) + g;
            store(velocity + i, v);
            step = nesterov ? g + momentum * v : v;
        }
        store(p->value + i, value - rate * step);
    }
}

KERNEL adam(const Parameter *all, int64 count, double rate, double slow, double slower, double eps, double decay)
{
    const Parameter *p = parameter_of_block(all, count);
    const Acc keep = (Acc)(1 - slow), keep_square = (Acc)(1 - slower);
    Acc *means = (Acc *)p->first, *squares = (Acc *)p->second;
    const Acc size = (Acc)p->slower_correction, step = (Acc)(rate / p->correction);
    const int64 begin = ((int64)blockIdx.x - p->block) * CHUNK, end = least(p->n, begin + CHUNK);
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const Acc value = load(p->value + i), g = load(p->grad + i) + (Acc)decay * value;
        Acc mean = means[i], square = squares[i];
        mean += keep * (g - mean);
        square += keep_square * (g * g - square);
        means[i] = mean;
        squares[i] = square;
        store(p->value + i, value - step * mean / ((Acc)sqrt(square / size) + (Acc)eps));
    }
}

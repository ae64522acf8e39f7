/* softmax.cu -- softmax and the losses along the middle of (outer, classes, inner).
 *
 * The twin of csrc/elementwise.c's and maps.c's rows and columns. A team has one vector of classes: a block where they lie
 * side by side and are many, else one thread, whose neighbours have the neighbouring vectors. */

#define BLOCK 128

/* Of the vector `v`: where its first class lies. The next one lies `inner` further on. */
INLINE int64 start_of(int64 v, int64 classes, int64 inner) { return v / inner * classes * inner + v % inner; }

/* Vectors of this team, one after the other. */
#define VECTORS(v, count)                                                                                              \
    for (int64 v = SIZE == 1 ? (int64)blockIdx.x * blockDim.x + threadIdx.x : (int64)blockIdx.x; v < (count);          \
         v += SIZE == 1 ? (int64)gridDim.x * blockDim.x : (int64)gridDim.x)
#define CLASSES(k) for (int64 k = Team<SIZE>::rank(); k < classes; k += SIZE)

template <int SIZE> INLINE Acc largest_of(const Real *x, int64 classes, int64 inner)
{
    Acc top = -infinity();
    CLASSES(k)
    {
        const Acc v = load(x + k * inner);
        top = v > top ? v : top;
    }
    return Team<SIZE>::largest(top);
}

/* In double: a thread alone may have many classes to add up. */
template <int SIZE> INLINE double exponentials(const Real *x, Acc shift, int64 classes, int64 inner)
{
    double sum = 0;
    CLASSES(k) sum += (double)(Acc)exp(load(x + k * inner) - shift);
    return Team<SIZE>::sum(sum);
}

template <int SIZE>
INLINE void softmax_of(const Real *x_, Real *y_, int64 outer, int64 classes, int64 inner, bool logarithm)
{
    VECTORS(v, outer * inner)
    {
        const Real *x = x_ + start_of(v, classes, inner);
        Real *y = y_ + start_of(v, classes, inner);
        const Acc shift = largest_of<SIZE>(x, classes, inner);
        const double sum = exponentials<SIZE>(x, shift, classes, inner);
        const Acc log_sum = (Acc)log(sum), divisor = (Acc)sum;
        CLASSES(k)
        {
            const Acc less = load(x + k * inner) - shift;
            store(y + k * inner, logarithm ? less - log_sum : (Acc)exp(less) / divisor);
        }
    }
}

/* dx = y (dy - sum of dy y), or dy - e^y (sum of dy) */
template <int SIZE>
INLINE void softmax_gradient(const Real *dy_, const Real *y_, Real *dx_, int64 outer, int64 classes, int64 inner,
                             bool logarithm)
{
    VECTORS(v, outer * inner)
    {
        const int64 at = start_of(v, classes, inner);
        const Real *dy = dy_ + at, *y = y_ + at;
        double sum = 0;
        CLASSES(k) sum += (double)(load(dy + k * inner) * (logarithm ? (Acc)1 : load(y + k * inner)));
        const Acc total = (Acc)Team<SIZE>::sum(sum);
        CLASSES(k)
        {
            const Acc g = load(dy + k * inner), p = load(y + k * inner);
            store(dx_ + at + k * inner, logarithm ? g - (Acc)exp(p) * total : p * (g - total));
        }
    }
}

/* A class that does not exist: *bad is set, and the loss and its gradient are NaN. */
template <int SIZE>
INLINE void cross_entropy_of(const Real *x_, const int64 *target, const Real *p_, Acc *losses, Real *dx_, double scale,
                             int64 outer, int64 classes, int64 inner, int *bad)
{
    VECTORS(v, outer * inner)
    {
        const int64 at = start_of(v, classes, inner);
        const Real *x = x_ + at;
        const Acc shift = largest_of<SIZE>(x, classes, inner);
        const double sum = exponentials<SIZE>(x, shift, classes, inner), log_sum = log(sum);
        double loss = 0, total = 1;
        int64 own = -1;
        bool wrong = false;
        if (p_) {
            double part = 0, weight = 0;
            CLASSES(k)
            {
                const double p = (double)load(p_ + at + k * inner);
                if (p != 0) { /* where it is 0, so is the product, infinite logits included */
                    part += p * (log_sum - ((double)load(x + k * inner) - (double)shift));
                    weight += p;
                }
            }
            loss = Team<SIZE>::sum(part);
            total = Team<SIZE>::sum(weight);
        } else {
            own = target[v];
            wrong = own < 0 || own >= classes;
            if (!wrong)
                loss = log_sum - ((double)load(x + own * inner) - (double)shift);
        }
        if (Team<SIZE>::rank() == 0) {
            losses[v] = wrong ? not_a_number() : (Acc)loss;
            if (wrong)
                *bad = 1;
        }
        if (!dx_)
            continue;
        const Acc factor = (Acc)(scale * total / sum);
        CLASSES(k)
        {
            const Acc less = p_ ? load(p_ + at + k * inner) * (Acc)scale : k == own ? (Acc)scale : (Acc)0;
            const Acc slope = (Acc)exp(load(x + k * inner) - shift) * factor - less;
            store(dx_ + at + k * inner, wrong ? not_a_number() : slope);
        }
    }
}

template <int SIZE>
INLINE void hinge_of(const Real *x_, const int64 *target, Acc *losses, Real *dx_, double margin, double scale,
                     int64 outer, int64 classes, int64 inner, int *bad)
{
    VECTORS(v, outer * inner)
    {
        const int64 at = start_of(v, classes, inner), own = target[v];
        const Real *x = x_ + at;
        const bool wrong = own < 0 || own >= classes;
        const Acc less = wrong ? not_a_number() : (Acc)margin - load(x + own * inner);
        double sum = 0;
        int count = 0;
        CLASSES(k)
        {
            const Acc over = load(x + k * inner) + less;
            const bool counts = !(over <= 0) && k != own; /* NaN does */
            sum += counts ? (double)over : 0;
            count += counts;
            if (dx_)
                store(dx_ + at + k * inner, wrong ? less : counts ? (Acc)scale : (Acc)0);
        }
        sum = Team<SIZE>::sum(sum);
        count = Team<SIZE>::sum(count);
        if (Team<SIZE>::rank() == 0) {
            losses[v] = (Acc)sum;
            if (wrong)
                *bad = 1;
        }
        if (dx_ && !wrong && own % SIZE == Team<SIZE>::rank()) /* who wrote it before */
            store(dx_ + at + own * inner, -(Acc)count * (Acc)scale);
    }
}

#define SHAPE int64 outer, int64 classes, int64 inner

KERNEL softmax_block(const Real *x, Real *y, SHAPE, int64 logarithm)
{
    softmax_of<BLOCK>(x, y, outer, classes, inner, logarithm);
}
KERNEL softmax_thread(const Real *x, Real *y, SHAPE, int64 logarithm)
{
    softmax_of<1>(x, y, outer, classes, inner, logarithm);
}
KERNEL softmax_backward_block(const Real *dy, const Real *y, Real *dx, SHAPE, int64 logarithm)
{
    softmax_gradient<BLOCK>(dy, y, dx, outer, classes, inner, logarithm);
}
KERNEL softmax_backward_thread(const Real *dy, const Real *y, Real *dx, SHAPE, int64 logarithm)
{
    softmax_gradient<1>(dy, y, dx, outer, classes, inner, logarithm);
}
KERNEL cross_entropy_block(const Real *x, const int64 *target, const Real *p, Acc *losses, Real *dx, double scale, SHAPE,
                           int *bad)
{
    cross_entropy_of<BLOCK>(x, target, p, losses, dx, scale, outer, classes, inner, bad);
}
KERNEL cross_entropy_thread(const Real *x, const int64 *target, const Real *p, Acc *losses, Real *dx, double scale,
                            SHAPE, int *bad)
{
    cross_entropy_of<1>(x, target, p, losses, dx, scale, outer, classes, inner, bad);
}
KERNEL hinge_block(const Real *x, const int64 *target, Acc *losses, Real *dx, double margin, double scale, SHAPE,
                   int *bad)
{
    hinge_of<BLOCK>(x, target, losses, dx, margin, scale, outer, classes, inner, bad);
}
KERNEL hinge_thread(const Real *x, const int64 *target, Acc *losses, Real *dx, double margin, double scale, SHAPE,
                    int *bad)
{
    hinge_of<1>(x, target, losses, dx, margin, scale, outer, classes, inner, bad);
}

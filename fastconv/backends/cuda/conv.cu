/* conv.cu -- convolution and its gradients: implicit im2col product, direct loops, locally connected layers.
 *
 * Used where cuDNN is missing or declines. Nothing is added up in an order that could change: no atomics. */

/* A convolution as fc_conv_problem describes it; axes in threes, as there. Channels and filters are those of one group. */
struct Convolution {
    int64 batch, groups, channels, filters;
    int in[3], out[3], kernel[3], stride[3], dilation[3], before[3];
    int last; /* channels last */
    int relu;
};

/* Element strides of an (N,C,D,H,W) or (N,D,H,W,C) array. */
struct Strides {
    int64 image, channel, axis[3];
};

INLINE Strides strides_of(const Convolution &p, int64 channels, const int *size)
{
    Strides s;
    const int64 plane = (int64)size[0] * size[1] * size[2];
    s.channel = p.last ? 1 : plane;
    s.axis[2] = p.last ? channels : 1;
    s.axis[1] = s.axis[2] * size[2];
    s.axis[0] = s.axis[1] * size[1];
    s.image = channels * plane;
    return s;
}
INLINE Strides x_strides(const Convolution &p) { return strides_of(p, p.groups * p.channels, p.in); }
INLINE Strides y_strides(const Convolution &p) { return strides_of(p, p.groups * p.filters, p.out); }
INLINE int64 volume(const int *size) { return (int64)size[0] * size[1] * size[2]; }

/* One side of an address: where it starts, and three coordinates that the other side adds to. */
struct Side {
    int64 offset;   /* < 0: there is nothing */
    int64 weight;   /* its part of a weight's address */
    int at[3];
};

/* A pixel of x or a place of y, by its number in (batch, d, h, w). */
INLINE Side place_side(const Strides &s, const int *size, int64 number, int64 count)
{
    Side side = {-1, 0, {0, 0, 0}};
    if (number >= count)
        return side;
    Index rest = (Index)number;
    for (int a = 2; a >= 0; a--) {
        side.at[a] = (int)(rest % (Index)size[a]);
        rest /= (Index)size[a];
    }
    side.offset = (int64)rest * s.image;
    return side;
}

/* A channel (of `step` elements) and a tap, by their number: taps run faster where channels come first, as the weights have
 * them, else channels do, as the image has them. */
INLINE Side tap_side(const Convolution &p, int64 channels, int64 step, int64 weight_step, int64 number, int64 count)
{
    Side side = {-1, 0, {0, 0, 0}};
    if (number >= count)
        return side;
    const Index taps = (Index)volume(p.kernel);
    const Index c = p.last ? (Index)number % (Index)channels : (Index)number / taps;
    Index t = p.last ? (Index)number / (Index)channels : (Index)number % taps;
    side.offset = c * step;
    side.weight = c * weight_step + t;
    for (int a = 2; a >= 0; a--) {
        side.at[a] = (int)(t % (Index)p.kernel[a]) * p.dilation[a];
        t /= (Index)p.kernel[a];
    }
    return side;
}

/* The element of x that tap t of place o sees, or -1 in the padding. */
INLINE int64 seen(const Convolution &p, const Strides &x, const Side &place, const Side &tap)
{
    int64 offset = place.offset + tap.offset;
    if (place.offset < 0 || tap.offset < 0)
        return -1;
    for (int a = 0; a < 3; a++) {
        const int64 i = (int64)place.at[a] * p.stride[a] + tap.at[a] - p.before[a];
        if (i < 0 || i >= p.in[a])
            return -1;
        offset += i * x.axis[a];
    }
    return offset;
}

/* The element of y whose tap sees this pixel of x, or -1. */
INLINE int64 seeing(const Convolution &p, const Strides &y, const Side &pixel, const Side &tap)
{
    int64 offset = pixel.offset + tap.offset;
    if (pixel.offset < 0 || tap.offset < 0)
        return -1;
    for (int a = 0; a < 3; a++) {
        const int64 from = (int64)pixel.at[a] + p.before[a] - tap.at[a];
        const int o = (int)(from / p.stride[a]);
        if (from < 0 || (int64)o * p.stride[a] != from || o >= p.out[a])
            return -1;
        offset += (int64)o * y.axis[a];
    }
    return offset;
}

/* ---- the product ------------------------------------------------------------------------------------------------------
 *
 * C (M x N) = A (M x K) B (K x N), of which neither A nor B is ever made:
 *
 *     forward           M places    N filters        K channels and taps    A from x,  B the weights
 *     input gradient    M pixels    N channels       K filters and taps     A from dy, B the weights
 *     weight gradient   M filters   N channels, taps K places               A is dy,   B from x
 *
 * A block makes TILE x TILE elements of C, DEPTH of K at a time; a thread EACH_ x EACH_ of them. Grid: tiles of M, tiles of N,
 * groups times shares of K (weight gradient: each share leaves its own C, and they are added up afterwards). */

#define TILE 64
#define DEPTH 16
#define THREADS 256
#define OWN 4 /* THREADS threads in 16 x 16, OWN x OWN elements each */

enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };

template <int PASS>
INLINE void product(const Convolution &p, const Real *x_, const Real *w_, const Real *y_, const Real *bias, Real *out,
                    Acc *partial, int64 shares)
{
    __shared__ Side rows[TILE], columns[TILE], steps[DEPTH];
    __shared__ Acc a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    const int tid = (int)threadIdx.x;
    const int64 group = blockIdx.z / shares, share = blockIdx.z % shares, taps = volume(p.kernel);
    const Strides xs = x_strides(p), ys = y_strides(p);
    const int64 pixels = p.batch * volume(p.in), places = p.batch * volume(p.out);
    const int64 m_count = PASS == FORWARD ? places : PASS == BACKWARD_INPUT ? pixels : p.filters;
    const int64 n_count = PASS == FORWARD ? p.filters : PASS == BACKWARD_INPUT ? p.channels : p.channels * taps;
    const int64 k_count = PASS == FORWARD ? p.channels * taps : PASS == BACKWARD_INPUT ? p.filters * taps : places;
    const Real *x = x_ + group * p.channels * xs.channel, *y = y_ + group * p.filters * ys.channel;
    const Real *w = w_ + group * p.filters * p.channels * taps;
    const int64 m0 = (int64)blockIdx.x * TILE, n0 = (int64)blockIdx.y * TILE;

    if (tid < TILE) {
        const int64 m = m0 + tid;
        if (PASS == FORWARD)
            rows[tid] = place_side(xs, p.out, m, m_count);
        else if (PASS == BACKWARD_INPUT)
            rows[tid] = place_side(ys, p.in, m, m_count);
        else
            rows[tid] = Side{m < m_count ? m * ys.channel : -1, 0, {0, 0, 0}};
    } else if (tid < 2 * TILE) {
        const int64 n = n0 + tid - TILE;
        if (PASS == BACKWARD_WEIGHT)
            columns[tid - TILE] = tap_side(p, p.channels, xs.channel, taps, n, n_count);
        else
            columns[tid - TILE] = Side{n < n_count ? 0 : -1, n * (PASS == FORWARD ? p.channels * taps : taps), {0, 0, 0}};
    }
    Acc sums[OWN][OWN];
    for (int i = 0; i < OWN; i++)
        for (int j = 0; j < OWN; j++)
            sums[i][j] = 0;

    /* shares are whole numbers of steps */
    const int64 all_steps = (k_count + DEPTH - 1) / DEPTH, share_steps = (all_steps + shares - 1) / shares;
    const int64 k_first = share * share_steps * DEPTH, k_end = least(k_count, k_first + share_steps * DEPTH);
    for (int64 k0 = k_first; k0 < k_end; k0 += DEPTH) {
        if (tid < DEPTH) {
            if (PASS == FORWARD)
                steps[tid] = tap_side(p, p.channels, xs.channel, taps, k0 + tid, k_end);
            else if (PASS == BACKWARD_INPUT)
                steps[tid] = tap_side(p, p.filters, ys.channel, p.channels * taps, k0 + tid, k_end);
            else
                steps[tid] = place_side(xs, p.out, k0 + tid, k_end); /* images of x; those of y below */
        }
        __syncthreads();
        for (int e = tid; e < TILE * DEPTH; e += THREADS) {
            /* neighbouring threads take what lies side by side: places where channels come first, else channels */
            const bool along_k = PASS == BACKWARD_WEIGHT ? !p.last : (bool)p.last;
            const int m = along_k ? e / DEPTH : e % TILE, k = along_k ? e % DEPTH : e / TILE;
            int64 at;
            if (PASS == FORWARD) {
                at = seen(p, xs, rows[m], steps[k]);
                a[k][m] = at < 0 ? (Acc)0 : load(x + at);
            } else if (PASS == BACKWARD_INPUT) {
                at = seeing(p, ys, rows[m], steps[k]);
                a[k][m] = at < 0 ? (Acc)0 : load(y + at);
            } else {
                const Side &s = steps[k];
                at = rows[m].offset < 0 || s.offset < 0
                         ? -1
                         : rows[m].offset + s.offset / xs.image * ys.image + s.at[0] * ys.axis[0] + s.at[1] * ys.axis[1] +
                               s.at[2] * ys.axis[2];
                a[k][m] = at < 0 ? (Acc)0 : load(y + at);
            }
        }
        for (int e = tid; e < TILE * DEPTH; e += THREADS) {
            const bool along_k = PASS != BACKWARD_WEIGHT || !p.last;
            const int n = along_k ? e / DEPTH : e % TILE, k = along_k ? e % DEPTH : e / TILE;
            if (PASS == BACKWARD_WEIGHT) {
                const int64 at = seen(p, xs, steps[k], columns[n]);
                b[k][n] = at < 0 ? (Acc)0 : load(x + at);
            } else {
                const bool there = columns[n].offset >= 0 && steps[k].offset >= 0;
                b[k][n] = there ? load(w + columns[n].weight + steps[k].weight) : (Acc)0;
            }
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++) {
            Acc left[OWN], right[OWN];
            for (int i = 0; i < OWN; i++) {
                left[i] = a[k][tid % 16 + 16 * i];
                right[i] = b[k][tid / 16 + 16 * i];
            }
            for (int i = 0; i < OWN; i++)
                for (int j = 0; j < OWN; j++)
                    sums[i][j] += left[i] * right[j];
        }
        __syncthreads();
    }
    if (k_first >= k_end)
        __syncthreads(); /* rows and columns are read below */

    for (int i = 0; i < OWN; i++)
        for (int j = 0; j < OWN; j++) {
            const int mi = tid % 16 + 16 * i, ni = tid / 16 + 16 * j;
            const int64 m = m0 + mi, n = n0 + ni;
            if (m >= m_count || n >= n_count)
                continue;
            Acc v = sums[i][j];
            if (PASS == BACKWARD_WEIGHT) {
                const int64 at = ((group * p.filters + m) * p.channels) * taps + columns[ni].weight;
                if (partial)
                    partial[share * p.groups * p.filters * p.channels * taps + at] = v;
                else
                    store(out + at, v);
                continue;
            }
            const Strides &s = PASS == FORWARD ? ys : xs;
            const int64 channel = group * (PASS == FORWARD ? p.filters : p.channels) + n;
            const Side &row = rows[mi];
            const int64 image = row.offset / (PASS == FORWARD ? xs.image : ys.image);
            if (bias)
                v += load(bias + channel);
            if (PASS == FORWARD && p.relu && v <= 0)
                v = 0;
            store(out + image * s.image + channel * s.channel + row.at[0] * s.axis[0] + row.at[1] * s.axis[1] +
                      row.at[2] * s.axis[2],
                  v);
        }
}

KERNEL product_forward(Convolution p, const Real *x, const Real *w, const Real *bias, Real *y)
{
    product<FORWARD>(p, x, w, y, bias, y, 0, 1);
}
KERNEL product_backward_input(Convolution p, Real *dx, const Real *w, const Real *bias, const Real *dy)
{
    product<BACKWARD_INPUT>(p, dx, w, dy, bias, dx, 0, 1);
}
KERNEL product_backward_weight(Convolution p, const Real *x, Real *dw, const Real *dy, Acc *partial, int64 shares)
{
    product<BACKWARD_WEIGHT>(p, x, dw, dy, 0, dw, partial, shares);
}

/* out = the sum of `shares` arrays of n elements, in their order */
KERNEL add_shares(const Acc *partial, Real *out, int64 n, int64 shares)
{
    EACH(i, n)
    {
        Acc sum = 0;
        for (int64 s = 0; s < shares; s++)
            sum += partial[s * n + i];
        store(out + i, sum);
    }
}

/* ---- directly: few channels, one channel of its own, and the reference, which sums in double ------------------------- */

/* Element i of (batch, groups * channels, d, h, w) in the order in which the array lies. */
struct Element {
    int64 image, channel;
    int at[3];
};
INLINE Element element_of(const Convolution &p, int64 channels, const int *size, int64 i)
{
    Index rest = (Index)i;
    Element e;
    if (p.last) {
        e.channel = rest % (Index)channels;
        rest /= (Index)channels;
    }
    for (int a = 2; a >= 0; a--) {
        e.at[a] = (int)(rest % (Index)size[a]);
        rest /= (Index)size[a];
    }
    if (!p.last) {
        e.channel = rest % (Index)channels;
        rest /= (Index)channels;
    }
    e.image = rest;
    return e;
}

template <class Sum>
INLINE void direct_forward_as(const Convolution &p, const Real *x, const Real *w, const Real *bias, Real *y, int64 n)
{
    const Strides xs = x_strides(p);
    EACH(i, n)
    {
        const Element e = element_of(p, p.groups * p.filters, p.out, i);
        const int64 taps = volume(p.kernel), group = e.channel / p.filters;
        Sum sum = bias ? (Sum)load(bias + e.channel) : 0;
        for (int64 c = 0; c < p.channels; c++) {
            const Real *plane = x + e.image * xs.image + (group * p.channels + c) * xs.channel;
            const Real *kernel = w + (e.channel * p.channels + c) * taps;
            for (int t0 = 0; t0 < p.kernel[0]; t0++) {
                const int64 i0 = (int64)e.at[0] * p.stride[0] - p.before[0] + (int64)t0 * p.dilation[0];
                if (i0 < 0 || i0 >= p.in[0])
                    continue;
                for (int t1 = 0; t1 < p.kernel[1]; t1++) {
                    const int64 i1 = (int64)e.at[1] * p.stride[1] - p.before[1] + (int64)t1 * p.dilation[1];
                    if (i1 < 0 || i1 >= p.in[1])
                        continue;
                    for (int t2 = 0; t2 < p.kernel[2]; t2++) {
                        const int64 i2 = (int64)e.at[2] * p.stride[2] - p.before[2] + (int64)t2 * p.dilation[2];
                        if (i2 >= 0 && i2 < p.in[2])
                            sum += (Sum)load(plane + i0 * xs.axis[0] + i1 * xs.axis[1] + i2 * xs.axis[2]) *
                                   (Sum)load(kernel + ((int64)t0 * p.kernel[1] + t1) * p.kernel[2] + t2);
                    }
                }
            }
        }
        store(y + i, p.relu && sum <= 0 ? (Acc)0 : (Acc)sum);
    }
}

/* The place along an axis whose tap t sees pixel i, or -1. */
INLINE int64 place_of(const Convolution &p, int axis, int i, int t)
{
    const int64 from = (int64)i + p.before[axis] - (int64)t * p.dilation[axis], o = from / p.stride[axis];
    return from < 0 || o * p.stride[axis] != from || o >= p.out[axis] ? -1 : o;
}

template <class Sum>
INLINE void direct_backward_input_as(const Convolution &p, Real *dx, const Real *w, const Real *bias, const Real *dy,
                                     int64 n)
{
    const Strides ys = y_strides(p);
    EACH(i, n)
    {
        const Element e = element_of(p, p.groups * p.channels, p.in, i);
        const int64 taps = volume(p.kernel), group = e.channel / p.channels, c = e.channel % p.channels;
        Sum sum = bias ? (Sum)load(bias + e.channel) : 0;
        for (int64 k = group * p.filters; k < (group + 1) * p.filters; k++) {
            const Real *plane = dy + e.image * ys.image + k * ys.channel, *kernel = w + (k * p.channels + c) * taps;
            for (int t0 = 0; t0 < p.kernel[0]; t0++) {
                const int64 o0 = place_of(p, 0, e.at[0], t0);
                for (int t1 = 0; t1 < p.kernel[1] && o0 >= 0; t1++) {
                    const int64 o1 = place_of(p, 1, e.at[1], t1);
                    for (int t2 = 0; t2 < p.kernel[2] && o1 >= 0; t2++) {
                        const int64 o2 = place_of(p, 2, e.at[2], t2);
                        if (o2 >= 0)
                            sum += (Sum)load(plane + o0 * ys.axis[0] + o1 * ys.axis[1] + o2 * ys.axis[2]) *
                                   (Sum)load(kernel + ((int64)t0 * p.kernel[1] + t1) * p.kernel[2] + t2);
                    }
                }
            }
        }
        store(dx + i, (Acc)sum);
    }
}

/* A block for each weight, its threads share the places. */
template <class Sum>
INLINE void direct_backward_weight_as(const Convolution &p, const Real *x, Real *dw, const Real *dy, int64 n)
{
    const Strides xs = x_strides(p), ys = y_strides(p);
    const int64 taps = volume(p.kernel), places = p.batch * volume(p.out);
    for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
        const int64 k = i / taps / p.channels, c = k / p.filters * p.channels + i / taps % p.channels;
        int t = (int)(i % taps);
        Side tap = {c * xs.channel, 0, {0, 0, 0}};
        for (int a = 2; a >= 0; a--) {
            tap.at[a] = t % p.kernel[a] * p.dilation[a];
            t /= p.kernel[a];
        }
        Sum sum = 0;
        for (int64 o = threadIdx.x; o < places; o += THREADS) {
            const Side place = place_side(xs, p.out, o, places);
            const int64 at = seen(p, xs, place, tap);
            if (at >= 0)
                sum += (Sum)load(x + at) *
                       (Sum)load(dy + place.offset / xs.image * ys.image + k * ys.channel + place.at[0] * ys.axis[0] +
                                 place.at[1] * ys.axis[1] + place.at[2] * ys.axis[2]);
        }
        sum = Team<THREADS>::sum(sum);
        if (threadIdx.x == 0)
            store(dw + i, (Acc)sum);
    }
}

KERNEL direct_forward(Convolution p, const Real *x, const Real *w, const Real *bias, Real *y, int64 n)
{
    direct_forward_as<Acc>(p, x, w, bias, y, n);
}
KERNEL reference_forward(Convolution p, const Real *x, const Real *w, const Real *bias, Real *y, int64 n)
{
    direct_forward_as<double>(p, x, w, bias, y, n);
}
KERNEL direct_backward_input(Convolution p, Real *dx, const Real *w, const Real *bias, const Real *dy, int64 n)
{
    direct_backward_input_as<Acc>(p, dx, w, bias, dy, n);
}
KERNEL reference_backward_input(Convolution p, Real *dx, const Real *w, const Real *bias, const Real *dy, int64 n)
{
    direct_backward_input_as<double>(p, dx, w, bias, dy, n);
}
KERNEL direct_backward_weight(Convolution p, const Real *x, Real *dw, const Real *dy, int64 n)
{
    direct_backward_weight_as<Acc>(p, x, dw, dy, n);
}
KERNEL reference_backward_weight(Convolution p, const Real *x, Real *dw, const Real *dy, int64 n)
{
    direct_backward_weight_as<double>(p, x, dw, dy, n);
}

/* dbias: the sum of dy over batch and places; a block for each filter. */
KERNEL bias_gradient(const Real *dy, Real *dbias, int64 batch, int64 filters, int64 places, int64 last)
{
    for (int64 k = blockIdx.x; k < filters; k += gridDim.x) {
        double sum = 0;
        for (int64 i = threadIdx.x; i < batch * places; i += THREADS) {
            const Index n = (Index)i / (Index)places;
            sum += (double)load(dy + (last ? i * filters + k : ((int64)n * filters + k) * places + (i - (int64)n * places)));
        }
        sum = Team<THREADS>::sum(sum);
        if (threadIdx.x == 0)
            store(dbias + k, (Acc)sum);
    }
}

/* y[..., channel] += bias[channel], then max(y, 0) if relu: what follows a product that cuDNN made */
KERNEL add_bias(Real *y, const Real *bias, int64 channels, int64 inner, int64 relu, int64 n)
{
    EACH(i, n)
    {
        const Acc v = load(y + i) + (bias ? load(bias + (Index)i / (Index)inner % (Index)channels) : (Acc)0);
        store(y + i, relu && v <= 0 ? (Acc)0 : v);
    }
}

/* ---- locally connected: weights (od, oh, ow, K, C, taps) and bias (od, oh, ow, K) of their own at each place --------------- */

KERNEL local_forward(Convolution p, const Real *x, const Real *w, const Real *bias, Real *y, int64 n)
{
    const Strides xs = x_strides(p);
    const int64 taps = volume(p.kernel);
    EACH(i, n)
    {
        const Element e = element_of(p, p.filters, p.out, i);
        const int64 number = ((int64)e.at[0] * p.out[1] + e.at[1]) * p.out[2] + e.at[2];
        const Real *own = w + (number * p.filters + e.channel) * p.channels * taps;
        const Side place = {e.image * xs.image, 0, {e.at[0], e.at[1], e.at[2]}};
        Acc sum = bias ? load(bias + number * p.filters + e.channel) : (Acc)0;
        for (int64 k = 0; k < p.channels * taps; k++) {
            int t = (int)(k % taps);
            Side tap = {k / taps * xs.channel, 0, {0, 0, 0}};
            for (int a = 2; a >= 0; a--) {
                tap.at[a] = t % p.kernel[a] * p.dilation[a];
                t /= p.kernel[a];
            }
            const int64 at = seen(p, xs, place, tap);
            if (at >= 0)
                sum += load(x + at) * load(own + k);
        }
        store(y + i, sum);
    }
}

KERNEL local_backward_input(Convolution p, Real *dx, const Real *w, const Real *dy, int64 n)
{
    const Strides ys = y_strides(p);
    const int64 taps = volume(p.kernel);
    EACH(i, n)
    {
        const Element e = element_of(p, p.channels, p.in, i);
        const Side pixel = {e.image * ys.image, 0, {e.at[0], e.at[1], e.at[2]}};
        Acc sum = 0;
        for (int64 tap = 0; tap < taps; tap++) {
            int t = (int)tap;
            Side side = {0, 0, {0, 0, 0}};
            for (int a = 2; a >= 0; a--) {
                side.at[a] = t % p.kernel[a] * p.dilation[a];
                t /= p.kernel[a];
            }
            const int64 at = seeing(p, ys, pixel, side);
            if (at < 0)
                continue;
            const int64 number = (at - pixel.offset) / (p.last ? p.filters : 1);
            const Real *own = w + (number * p.filters * p.channels + e.channel) * taps + tap;
            for (int64 k = 0; k < p.filters; k++)
                sum += load(dy + at + k * ys.channel) * load(own + k * p.channels * taps);
        }
        store(dx + i, sum);
    }
}

KERNEL local_backward_weight(Convolution p, const Real *x, Real *dw, const Real *dy, int64 n)
{
    const Strides xs = x_strides(p), ys = y_strides(p);
    const int64 taps = volume(p.kernel);
    EACH(i, n)
    {
        const int64 number = i / taps / p.channels / p.filters, k = i / taps / p.channels % p.filters;
        int t = (int)(i % taps);
        Side tap = {i / taps % p.channels * xs.channel, 0, {0, 0, 0}};
        for (int a = 2; a >= 0; a--) {
            tap.at[a] = t % p.kernel[a] * p.dilation[a];
            t /= p.kernel[a];
        }
        const Side place = place_side(xs, p.out, number, volume(p.out));
        const int64 at = seen(p, xs, place, tap), from = number * (p.last ? p.filters : 1) + k * ys.channel;
        Acc sum = 0;
        for (int64 image = 0; image < p.batch && at >= 0; image++)
            sum += load(x + image * xs.image + at) * load(dy + image * ys.image + from);
        store(dw + i, sum);
    }
}

/* dbias (od, oh, ow, K): the sum of dy over the batch */
KERNEL local_bias_gradient(Convolution p, Real *dbias, const Real *dy, int64 n)
{
    const Strides ys = y_strides(p);
    EACH(i, n)
    {
        const int64 number = i / p.filters, k = i % p.filters;
        const int64 from = number * (p.last ? p.filters : 1) + k * ys.channel;
        Acc sum = 0;
        for (int64 image = 0; image < p.batch; image++)
            sum += load(dy + image * ys.image + from);
        store(dbias + i, sum);
    }
}

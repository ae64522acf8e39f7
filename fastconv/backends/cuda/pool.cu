/* pool.cu -- pooling, its gradients, switches, the image matrix, means of planes.
 *
 * The twin of csrc/kernels/pool.inc and csrc/columns.c. One thread computes one element of what is written. */

/* A pooling as fc_pool_problem describes it; axes in threes, as there. */
struct Windows {
    int64 batch, channels;
    int in[3], out[3], kernel[3], stride[3], dilation[3], before[3], after[3];
    int last; /* channels last */
    int adaptive, count_padding, unused;
};

/* Where an element of an (N,C,D,H,W) or (N,D,H,W,C) array is: in which plane, and where in it. */
struct Place {
    int64 plane; /* n * channels + c */
    int at[3];
};

INLINE Place place_of(const Windows &w, const int *size, int64 element)
{
    Index rest = (Index)element;
    Place p;
    Index c = 0;
    if (w.last) {
        c = rest % (Index)w.channels;
        rest /= (Index)w.channels;
    }
    for (int a = 2; a >= 0; a--) {
        p.at[a] = (int)(rest % (Index)size[a]);
        rest /= (Index)size[a];
    }
    p.plane = w.last ? (int64)rest * w.channels + c : (int64)rest;
    return p;
}

INLINE int64 area(const int *size) { return (int64)size[0] * size[1] * size[2]; }

/* The first element of a plane; the next one lies step_of further on. */
INLINE int64 start_of(const Windows &w, const int *size, int64 plane)
{
    return w.last ? plane / w.channels * area(size) * w.channels + plane % w.channels : plane * area(size);
}
INLINE int64 step_of(const Windows &w) { return w.last ? w.channels : 1; }

/* Taps first .. last-1 of window o along an axis lie in the input, tap t at start + t * dilation. */
struct Taps {
    int64 start;
    int first, last, step;
};

INLINE Taps taps_of(const Windows &w, int axis, int o)
{
    Taps t;
    if (w.adaptive) {
        t.start = (int64)o * w.in[axis] / w.out[axis];
        t.first = 0;
        t.last = (int)((((int64)o + 1) * w.in[axis] + w.out[axis] - 1) / w.out[axis] - t.start);
        t.step = 1;
        return t;
    }
    t.step = w.dilation[axis];
    t.start = (int64)o * w.stride[axis] - w.before[axis];
    t.first = t.start < 0 ? (int)least((-t.start + t.step - 1) / t.step, w.kernel[axis]) : 0;
    const int64 room = w.in[axis] - t.start; /* taps below room / step are inside */
    t.last = room > 0 ? (int)least((room + t.step - 1) / t.step, w.kernel[axis]) : 0;
    return t;
}

/* By how many elements window o is divided along an axis. */
INLINE int64 weight_of(const Windows &w, int axis, int o)
{
    const Taps t = taps_of(w, axis, o);
    if (w.adaptive || !w.count_padding)
        return most(t.last - t.first, 0);
    const int64 room = w.in[axis] + w.after[axis] - t.start; /* what lies beyond padding never counts */
    return room > 0 ? least((room + t.step - 1) / t.step, w.kernel[axis]) : 0;
}

/* Elements of a window, by their flat index in the plane, first to last. */
#define WINDOW(index, d, h, v)                                                                                         \
    for (int a_ = (d).first; a_ < (d).last; a_++)                                                                      \
        for (int b_ = (h).first; b_ < (h).last; b_++)                                                                  \
            for (int64 c_ = (v).first, index = (((d).start + (int64)a_ * (d).step) * w.in[1] + (h).start +             \
                                                (int64)b_ * (h).step) *                                                \
                                                   w.in[2] +                                                           \
                                               (v).start + c_ * (v).step;                                              \
                 c_ < (v).last; c_++, index += (v).step)

#define TAPS(p)                                                                                                        \
    const Taps d = taps_of(w, 0, (p).at[0]), h = taps_of(w, 1, (p).at[1]), v = taps_of(w, 2, (p).at[2])

/* Switches are int (narrow) or int64 (wide): one of the two is not NULL. */
INLINE void put_switch(int *narrow, int64 *wide, int64 i, int64 where)
{
    if (narrow)
        narrow[i] = (int)where;
    if (wide)
        wide[i] = where;
}
INLINE int64 get_switch(const int *narrow, const int64 *wide, int64 i) { return narrow ? (int64)narrow[i] : wide[i]; }

/* The first of equals wins, the first NaN over any number; padding never does. */
KERNEL max_pool(Windows w, const Real *x_, Real *y, int *narrow, int64 *wide, int64 n)
{
    EACH(i, n)
    {
        const Place p = place_of(w, w.out, i);
        const Real *x = x_ + start_of(w, w.in, p.plane);
        const int64 step = step_of(w);
        TAPS(p);
        Acc top = -infinity();
        int64 where = -1;
        WINDOW(k, d, h, v)
        {
            const Acc e = load(x + k * step);
            if (where < 0 || e > top || (e != e && top == top)) {
                top = e;
                where = k;
            }
        }
        store(y + i, top);
        put_switch(narrow, wide, i, where);
    }
}

KERNEL avg_pool(Windows w, const Real *x_, Real *y, int64 n)
{
    EACH(i, n)
    {
        const Place p = place_of(w, w.out, i);
        const Real *x = x_ + start_of(w, w.in, p.plane);
        const int64 step = step_of(w);
        TAPS(p);
        const int64 count = weight_of(w, 0, p.at[0]) * weight_of(w, 1, p.at[1]) * weight_of(w, 2, p.at[2]);
        Acc sum = 0;
        for (int a = d.first; a < d.last; a++) {
            Acc slice = 0;
            for (int b = h.first; b < h.last; b++) { /* sums of sums: large windows stay accurate */
                const int64 row = ((d.start + (int64)a * d.step) * w.in[1] + h.start + (int64)b * h.step) * w.in[2] + v.start;
                Acc part = 0;
                for (int c = v.first; c < v.last; c++)
                    part += load(x + (row + (int64)c * v.step) * step);
                slice += part;
            }
            sum += slice;
        }
        store(y + i, sum / (Acc)count); /* the average of nothing is NaN */
    }
}

/* Windows first .. last along an axis may hold input position i. */
struct Span {
    int first, last;
};
INLINE Span windows_at(const Windows &w, int axis, int i)
{
    Span s;
    if (w.adaptive) {
        s.first = (int)((int64)i * w.out[axis] / w.in[axis]);
        s.last = (int)((((int64)i + 1) * w.out[axis] + w.in[axis] - 1) / w.in[axis]) - 1;
        return s;
    }
    const int64 reach = (int64)w.dilation[axis] * (w.kernel[axis] - 1), at = (int64)i + w.before[axis];
    s.first = at > reach ? (int)((at - reach + w.stride[axis] - 1) / w.stride[axis]) : 0;
    s.last = (int)least(at / w.stride[axis], w.out[axis] - 1);
    return s;
}

KERNEL avg_pool_backward(Windows w, const Real *dy_, Real *dx, int64 n)
{
    EACH(i, n)
    {
        const Place p = place_of(w, w.in, i);
        const Real *dy = dy_ + start_of(w, w.out, p.plane);
        const int64 step = step_of(w);
        const Span d = windows_at(w, 0, p.at[0]), h = windows_at(w, 1, p.at[1]), v = windows_at(w, 2, p.at[2]);
        Acc sum = 0;
        for (int a = d.first; a <= d.last; a++)
            for (int b = h.first; b <= h.last; b++) {
                const int64 across = weight_of(w, 0, a) * weight_of(w, 1, b);
                for (int c = v.first; c <= v.last; c++)
                    sum += load(dy + (((int64)a * w.out[1] + b) * w.out[2] + c) * step) / (Acc)(across * weight_of(w, 2, c));
            }
        store(dx + i, sum);
    }
}

/* ---- following switches ---------------------------------------------------------------------------------------------
 *
 * Several windows may name one cell, and their sum is to be the same in every run: every cell gets the list of those that
 * name it, chained in whatever order, and adds it up in order of the windows. */

/* The cell of x that element i of y names, or -1; *bad is set if there is no such cell. */
INLINE int64 cell_of(const Windows &w, const int *narrow, const int64 *wide, int64 i, int *bad)
{
    const int64 where = get_switch(narrow, wide, i);
    if (where < 0 || where >= area(w.in)) {
        if (where != -1)
            *bad = 1;
        return -1;
    }
    return start_of(w, w.in, place_of(w, w.out, i).plane) + where * step_of(w);
}

#ifdef FC_WIDE
#define LINK unsigned long long
#else
#define LINK int
#endif

KERNEL chain(Windows w, const int *narrow, const int64 *wide, LINK *head, LINK *next, int64 n, int *bad)
{
    EACH(i, n)
    {
        const int64 cell = cell_of(w, narrow, wide, i, bad);
        if (cell >= 0)
            next[i] = atomicExch(head + cell, (LINK)i);
    }
}

/* Sorts a list; of two that are sorted, merging takes the lower first. Runs of 1, 2, 4, ... elements. */
INLINE int64 sorted(int64 head, LINK *next)
{
    for (int64 size = 1;; size *= 2) {
        int64 rest = head, tail = -1, merges = 0;
        head = -1;
        while (rest >= 0) {
            merges++;
            int64 p = rest, q = rest, left = 0, right = size;
            while (left < size && q >= 0) {
                left++;
                q = (int64)next[q];
            }
            while (left > 0 || (right > 0 && q >= 0)) {
                int64 taken;
                if (left > 0 && (right == 0 || q < 0 || p < q)) {
                    taken = p;
                    p = (int64)next[p];
                    left--;
                } else {
                    taken = q;
                    q = (int64)next[q];
                    right--;
                }
                if (tail < 0)
                    head = taken;
                else
                    next[tail] = (LINK)taken;
                tail = taken;
            }
            rest = q;
        }
        if (tail >= 0)
            next[tail] = (LINK)-1;
        if (merges <= 1)
            return head;
    }
}

KERNEL add_chains(const LINK *head, LINK *next, const Real *dy, Real *dx, int64 n)
{
    EACH(i, n)
    {
        int64 first = (int64)head[i];
        Acc sum = 0;
        if (first >= 0 && (int64)next[first] >= 0)
            first = sorted(first, next);
        for (int64 k = first; k >= 0; k = (int64)next[k])
            sum += load(dy + k);
        store(dx + i, sum);
    }
}

/* Where windows are known, no lists are needed: a cell asks those that it lies in, in their order. */
KERNEL gather(Windows w, const int *narrow, const int64 *wide, const Real *dy_, Real *dx, int64 windows, int64 n,
              int *bad)
{
    EACH(i, windows)
    {
        const int64 where = get_switch(narrow, wide, i);
        bool inside = where >= -1 && where < area(w.in);
        if (inside && where >= 0) {
            const Place p = place_of(w, w.out, i);
            int64 rest = where;
            for (int axis = 2; axis >= 0; axis--) {
                const Span s = windows_at(w, axis, (int)(rest % w.in[axis]));
                inside = inside && s.first <= p.at[axis] && p.at[axis] <= s.last;
                rest /= w.in[axis];
            }
        }
        if (!inside)
            *bad = 1;
    }
    EACH(i, n)
    {
        const Place p = place_of(w, w.in, i);
        const int64 cell = ((int64)p.at[0] * w.in[1] + p.at[1]) * w.in[2] + p.at[2];
        const int64 start = start_of(w, w.out, p.plane), step = step_of(w);
        const Span d = windows_at(w, 0, p.at[0]), h = windows_at(w, 1, p.at[1]), v = windows_at(w, 2, p.at[2]);
        Acc sum = 0;
        for (int a = d.first; a <= d.last; a++)
            for (int b = h.first; b <= h.last; b++)
                for (int c = v.first; c <= v.last; c++) {
                    const int64 k = start + (((int64)a * w.out[1] + b) * w.out[2] + c) * step;
                    if (get_switch(narrow, wide, k) == cell)
                        sum += load(dy_ + k);
                }
        store(dx + i, sum);
    }
}

/* Of several for one cell the last counts. */
KERNEL last_of_cell(Windows w, const int *narrow, const int64 *wide, long long *head, int64 n, int *bad)
{
    EACH(i, n)
    {
        const int64 cell = cell_of(w, narrow, wide, i, bad);
        if (cell >= 0)
            atomicMax(head + cell, (long long)i);
    }
}

KERNEL unpool(const long long *head, const Real *y, Real *x, int64 n)
{
    EACH(i, n) store(x + i, head[i] < 0 ? (Acc)0 : load(y + head[i]));
}

KERNEL unpool_backward(Windows w, const Real *dx, const int *narrow, const int64 *wide, Real *dy, int64 n, int *bad)
{
    EACH(i, n)
    {
        const int64 cell = cell_of(w, narrow, wide, i, bad);
        store(dy + i, cell < 0 ? (Acc)0 : load(dx + cell));
    }
}

/* ---- stochastic pooling ---------------------------------------------------------------------------------------------- */

/* The element at which the sum of the window's positive ones passes a random share of the whole. */
KERNEL stochastic_pool(Windows w, const Real *x_, Real *y, int *narrow, int64 *wide, uint64 key, int64 n)
{
    EACH(i, n)
    {
        const Place p = place_of(w, w.out, i);
        const Real *x = x_ + start_of(w, w.in, p.plane);
        const int64 step = step_of(w);
        TAPS(p);
        const double share = draw(key, (uint64)i) * (1.0 / 4294967296.0);
        double total = 0, goal = 0;
        int64 where = -1, first = -1;
        bool found = false;
        for (int pass = 0; pass < 2; pass++) {
            double sum = 0;
            goal = total * share;
            WINDOW(k, d, h, v)
            {
                if (first < 0)
                    first = k;
                const Acc e = load(x + k * step);
                if (found || !(e > 0))
                    continue;
                sum += (double)e;
                where = k; /* the last positive one, should rounding leave none */
                found = pass == 1 && sum > goal;
            }
            total = sum;
        }
        if (where < 0)
            where = first;
        store(y + i, where < 0 ? (Acc)0 : load(x + where * step));
        put_switch(narrow, wide, i, where);
    }
}

/* ---- the image matrix -------------------------------------------------------------------------------------------------- */

/* (N, C * taps, places) or, channels last, (N, places, taps * C) */
KERNEL im2col(Windows w, const Real *x, Real *columns, int64 n)
{
    const Index taps = (Index)area(w.kernel), places = (Index)area(w.out), channels = (Index)w.channels;
    EACH(i, n)
    {
        Index rest = (Index)i, place, c, tap;
        if (w.last) {
            c = rest % channels, rest /= channels;
            tap = rest % taps, rest /= taps;
            place = rest % places, rest /= places;
        } else {
            place = rest % places, rest /= places;
            tap = rest % taps, rest /= taps;
            c = rest % channels, rest /= channels;
        }
        int64 k = 0;
        bool inside = true;
        Index t = tap, o = place;
        int64 at[3];
        for (int a = 2; a >= 0; a--) {
            at[a] = (int64)(o % w.out[a]) * w.stride[a] - w.before[a] + (int64)(t % w.kernel[a]) * w.dilation[a];
            o /= w.out[a], t /= w.kernel[a];
            inside = inside && at[a] >= 0 && at[a] < w.in[a];
        }
        k = (at[0] * w.in[1] + at[1]) * w.in[2] + at[2];
        store(columns + i,
              inside ? load(x + start_of(w, w.in, (int64)rest * w.channels + c) + k * step_of(w)) : (Acc)0);
    }
}

KERNEL col2im(Windows w, const Real *columns, Real *x, int64 n)
{
    const int64 taps = area(w.kernel), places = area(w.out);
    EACH(i, n)
    {
        const Place p = place_of(w, w.in, i);
        const int64 image = p.plane / w.channels, c = p.plane % w.channels;
        Acc sum = 0;
        int tap = 0;
        for (int td = 0; td < w.kernel[0]; td++)
            for (int th = 0; th < w.kernel[1]; th++)
                for (int tv = 0; tv < w.kernel[2]; tv++, tap++) {
                    const int t[3] = {td, th, tv};
                    int64 place = 0;
                    bool inside = true;
                    for (int a = 0; a < 3; a++) {
                        const int64 from = (int64)p.at[a] + w.before[a] - (int64)t[a] * w.dilation[a];
                        const int64 o = from / w.stride[a];
                        inside = inside && from >= 0 && o * w.stride[a] == from && o < w.out[a];
                        place = place * w.out[a] + o;
                    }
                    if (inside)
                        sum += load(columns + (w.last ? ((image * places + place) * taps + tap) * w.channels + c
                                                      : ((image * w.channels + c) * taps + tap) * places + place));
                }
        store(x + i, sum);
    }
}

/* ---- means of whole planes ------------------------------------------------------------------------------------------------ */

#define BLOCK 128

KERNEL plane_means(const Real *x, Real *y, int64 planes, int64 size)
{
    for (int64 plane = blockIdx.x; plane < planes; plane += gridDim.x) {
        double sum = 0;
        for (int64 i = threadIdx.x; i < size; i += BLOCK)
            sum += (double)load(x + plane * size + i);
        sum = Team<BLOCK>::sum(sum);
        if (threadIdx.x == 0)
            store(y + plane, (Acc)(sum / (double)size));
    }
}

KERNEL plane_means_backward(const Real *dy, Real *dx, int64 size, int64 n)
{
    EACH(i, n) store(dx + i, load(dy + (Index)i / (Index)size) / (Acc)size);
}

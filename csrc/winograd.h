/* winograd.h -- how Winograd's drivers cover an axis of the output: by segments of three sizes, so that few places are computed in vain. */
#ifndef FC_WINOGRAD_H
#define FC_WINOGRAD_H

#include "conv.h"

enum {
    SIDE = FC_WINOGRAD_SIDE,
    POINTS = SIDE * SIDE,
    CLASSES = FC_WINOGRAD_CLASSES,
    SLOTS = CLASSES * CLASSES,
};

typedef struct axis {
    ptrdiff_t length; /* outputs */
    int taps;
    ptrdiff_t count[CLASSES]; /* segments of 1, 2, 3 pairs of points; the largest come first */
    ptrdiff_t segments;
    int pairs;               /* of the largest */
    ptrdiff_t block, blocks; /* segments of a block, at most; blocks */
} axis;

/* Outputs of a segment. */
static inline ptrdiff_t outputs_of(int taps, int pairs) { return fc_max(2 * pairs + 3 - taps, 0); }

/* `most` segments of the largest size, what is left by the others; never a whole segment in vain. */
static inline axis axis_of(ptrdiff_t length, int taps, ptrdiff_t most)
{
    const ptrdiff_t small = outputs_of(taps, 1), middle = outputs_of(taps, 2), large = outputs_of(taps, 3);
    axis a = {.length = length, .taps = taps, .count = {0, 0, most}};
    ptrdiff_t left = fc_max(length - large * most, 0);
    if (!middle)
        a.count[2] += fc_ceil_div(left, large);
    else if (!small)
        a.count[1] = fc_ceil_div(left, middle);
    else {
        a.count[1] = left / middle + (left % middle > small);
        a.count[0] = fc_ceil_div(fc_max(left - middle * a.count[1], 0), small);
    }
    a.segments = a.count[0] + a.count[1] + a.count[2];
    a.pairs = a.count[2] ? 3 : a.count[1] ? 2 : 1;
    return a;
}

static inline int segment_pairs(const axis *a, ptrdiff_t i)
{
    return i < a->count[2] ? 3 : i < a->count[2] + a->count[1] ? 2 : 1;
}

static inline ptrdiff_t segment_start(const axis *a, ptrdiff_t i)
{
    ptrdiff_t large = fc_min(i, a->count[2]), middle = fc_min(i - large, a->count[1]);
    return large * outputs_of(a->taps, 3) + middle * outputs_of(a->taps, 2) +
           (i - large - middle) * outputs_of(a->taps, 1);
}

/* Segments from first to last that use points of the class. */
static inline ptrdiff_t segments_in(const axis *a, ptrdiff_t first, ptrdiff_t last, int class)
{
    ptrdiff_t end = a->count[2] + (class < 2 ? a->count[1] : 0) + (class < 1 ? a->count[0] : 0);
    return fc_max(fc_min(last, end) - first, 0);
}

#endif

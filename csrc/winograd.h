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

/* Lists the ways to cut an axis that are worth a look, and says how many they are. */
#define AXES 4
static inline int list_axes(ptrdiff_t length, int taps, axis list[AXES])
{
    const ptrdiff_t large = outputs_of(taps, 3),
                    most[AXES] = {0, fc_max(length / large - 1, 0), length / large, fc_ceil_div(length, large)};
    ptrdiff_t before = -1;
    int count = 0;
    for (int i = 0; i < AXES; i++)
        if (most[i] > before)
            list[count++] = axis_of(length, taps, before = most[i]);
    return count;
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

/* Two other ways for few channels. Where one does not fit, the others of its functions may not be called. */

/* ---- winograd_lines.c: Winograd down, plain sums across ------------------------------------------------------ */

bool fc_winograd_lines_fit(const fc_conv_plan *plan);
double fc_winograd_lines_cost(const fc_conv_plan *plan); /* estimated seconds on one thread */
size_t fc_winograd_lines_workspace(const fc_conv_plan *plan, int threads);
void fc_winograd_lines_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads);

/* ---- winograd_images.c: images in the lanes of vectors ---------------------------------------------------- */

bool fc_winograd_images_fit(const fc_conv_plan *plan);
double fc_winograd_images_cost(const fc_conv_plan *plan); /* estimated seconds on one thread */
size_t fc_winograd_images_workspace(const fc_conv_plan *plan, int threads);
void fc_winograd_images_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads);

#endif

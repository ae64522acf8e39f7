/* winograd.h -- how Winograd's drivers cover an axis of the output: by segments of some sizes, so that few places are computed in vain. */
#ifndef FC_WINOGRAD_H
#define FC_WINOGRAD_H

#include "conv.h"

enum {
    SIDE = FC_WINOGRAD_SIDE,
    POINTS = SIDE * SIDE,
    LEAST = FC_WINOGRAD_LEAST,
    CLASSES = FC_WINOGRAD_CLASSES,
};

typedef struct axis {
    ptrdiff_t length; /* outputs */
    int taps;
    ptrdiff_t count[CLASSES]; /* segments of LEAST points and more; the largest come first */
    ptrdiff_t segments;
    int points;              /* of the filters: of the largest, in whole pairs */
    ptrdiff_t block, blocks; /* segments of a block, at most; blocks */
} axis;

/* Outputs of a segment. */
static inline ptrdiff_t outputs_of(int taps, int points) { return fc_max(points + 1 - taps, 0); }

/* `most` segments of the largest size, the last of them a place short if that is enough; what is left by the others. */
static inline axis axis_of(ptrdiff_t length, int taps, ptrdiff_t most)
{
    const ptrdiff_t middle = outputs_of(taps, SIDE - 2), large = outputs_of(taps, SIDE);
    ptrdiff_t left = length - large * most, count[SIDE + 1] = {0};
    if (left > 0 && !middle) {
        const ptrdiff_t more = fc_ceil_div(left, large);
        most += more;
        left -= more * large;
    }
    count[SIDE] = most;
    if (left == -1 && large > 1) {
        count[SIDE]--;
        count[SIDE - 1]++;
    } else if (left > 0) {
        count[SIDE - 2] = left / middle;
        if (left % middle)
            count[fc_max(left % middle + taps - 1, LEAST)]++;
    }
    axis a = {.length = length, .taps = taps};
    for (int points = LEAST; points <= SIDE; points++) {
        a.count[points - LEAST] = count[points];
        a.segments += count[points];
        if (count[points])
            a.points = points + points % 2;
    }
    return a;
}

/* Lists the ways to cut an axis that are worth a look, and says how many they are. */
#define AXES 4
static inline int list_axes(ptrdiff_t length, int taps, axis list[AXES])
{
    const ptrdiff_t large = outputs_of(taps, SIDE),
                    most[AXES] = {0, fc_max(length / large - 1, 0), length / large, fc_ceil_div(length, large)};
    ptrdiff_t before = -1;
    int count = 0;
    for (int i = 0; i < AXES; i++)
        if (most[i] > before)
            list[count++] = axis_of(length, taps, before = most[i]);
    return count;
}

static inline int segment_points(const axis *a, ptrdiff_t i)
{
    int points = SIDE;
    for (; points > LEAST && i >= a->count[points - LEAST]; points--)
        i -= a->count[points - LEAST];
    return points;
}

static inline ptrdiff_t segment_start(const axis *a, ptrdiff_t i)
{
    ptrdiff_t start = 0;
    for (int points = SIDE; points >= LEAST; points--) {
        const ptrdiff_t before = fc_min(i, a->count[points - LEAST]);
        start += before * outputs_of(a->taps, points);
        i -= before;
    }
    return start;
}

/* Segments from first to last that use points of the class. */
static inline ptrdiff_t segments_in(const axis *a, ptrdiff_t first, ptrdiff_t last, int class)
{
    ptrdiff_t end = 0;
    for (int i = class; i < CLASSES; i++)
        end += a->count[i];
    return fc_max(fc_min(last, end) - first, 0);
}

/* Every segment has both points of a pair, or neither. */
static inline bool has_pairs(const axis *a) { return a->count[5 - LEAST] + a->count[7 - LEAST] == 0; }

/* Points of all segments. */
static inline ptrdiff_t points_of(const axis *a)
{
    ptrdiff_t points = 0;
    for (int i = LEAST; i <= SIDE; i++)
        points += a->count[i - LEAST] * i;
    return points;
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

/* conv.h -- what conv.c and the algorithms share: the plan, the list, and the sweep, the one form that forward,
 * strided input gradients and transposed convolution take. */
#ifndef FC_CONV_H
#define FC_CONV_H

#include "core.h"

typedef struct fc_conv_algorithm fc_conv_algorithm;

struct fc_conv_plan {
    fc_conv_problem problem;
    ptrdiff_t output[3];
    size_t limit; /* workspace bytes per thread */
    const fc_kernels *kernels;
    const fc_conv_algorithm *algorithm;
    int threads;  /* that it can keep busy */
    bool empty;   /* no images: nothing to run */
    bool apart;   /* fc_takes_taps_apart */
    int way;      /* of the algorithm's, that it takes */
    ptrdiff_t l2; /* fc_l2() */
};

/* Processors with a large second-level cache have the next one far away: 7.5 bytes a cycle come from there on a Xeon of 2 MiB. */
static inline bool fc_l3_is_far(const fc_conv_plan *plan) { return plan->l2 > (ptrdiff_t)1 << 20; }

/* An algorithm looks at a plan whose problem is valid and whose algorithm is not yet set. */
struct fc_conv_algorithm {
    const char *name;
    const char *(*decline)(const fc_conv_plan *plan); /* NULL, or why it cannot do the problem */
    double (*cost)(const fc_conv_plan *plan);         /* estimated seconds on one thread */
    size_t (*workspace)(const fc_conv_plan *plan, int threads);
    void (*run)(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
    /* whether the weight gradient sums dy up as it passes; NULL: never */
    bool (*sums_bias)(const fc_conv_plan *plan);
    int (*way)(const fc_conv_plan *plan); /* what plan->way is to be; NULL: there is but one */
};

#define FC_NOMINAL_HERTZ 3e9 /* turns estimated cycles into seconds; only ratios of estimates matter */

extern const fc_conv_algorithm fc_algorithm_depthwise, fc_algorithm_winograd, fc_algorithm_direct, fc_algorithm_im2col,
    fc_algorithm_reference;

/* ---- sweep.c -------------------------------------------------------------------------------------------- */

/* Input coordinate of place p and tap t: origin + p * step + t * tap_step. Kernel index of tap t: kernel_first +
 * t * kernel_step. Output coordinate of place p: output_first + p * output_step. */
typedef struct fc_axis {
    ptrdiff_t places, taps;
    ptrdiff_t origin, step, tap_step; /* step, tap_step > 0 */
    ptrdiff_t input;                  /* its length; outside are zeros */
    ptrdiff_t kernel, kernel_first, kernel_step;
    ptrdiff_t output, output_first, output_step;
} fc_axis;

/* out[n, g, filter, place] = sum over channel, tap of weight[g, filter, channel, tap] * in[n, g, channel, input(place, tap)] */
typedef struct fc_sweep {
    ptrdiff_t batch, groups;
    ptrdiff_t channels, filters; /* reduced over and produced, per group */
    fc_axis axis[3];
    bool accumulate; /* add to what the output holds */
    bool apart;      /* one of several that write the same places */
} fc_sweep;

fc_sweep fc_sweep_forward(const fc_conv_plan *plan);
/* The input gradient is one sweep over dy for each residue of the input coordinate modulo the stride: no products with the zeros
 * that striding would put between dy's elements. A phase may have no taps, and then writes zeros. */
ptrdiff_t fc_sweep_phases(const fc_conv_plan *plan);
fc_sweep fc_sweep_backward_input(const fc_conv_plan *plan, ptrdiff_t phase);

/* What a driver runs one after the other: the phases; or, where padding would take up much of the products, as
 * dilated kernels have it, the taps, each over the rectangle of places for which it lies in the input: the first one writes all
 * places, the others add to them. */
bool fc_takes_taps_apart(const fc_conv_plan *plan);
ptrdiff_t fc_sweep_parts(const fc_conv_plan *plan);
/* weight_offset: bytes from what fc_part_weights gives to the part's own. */
fc_sweep fc_sweep_part(const fc_conv_plan *plan, ptrdiff_t part, ptrdiff_t *weight_offset);
/* Taken apart: the kernel index of the tap whose weights begin there. */
ptrdiff_t fc_part_tap(const fc_conv_plan *plan, ptrdiff_t weight_offset);
/* The weights of taps taken apart are a copy of so many bytes at the workspace's beginning, (taps, out_channels, in_channels /
 * groups); so much of the limit is left to compute in. */
size_t fc_part_weight_bytes(const fc_conv_plan *plan);
size_t fc_part_limit(const fc_conv_plan *plan);
void fc_part_weights_back(const fc_conv_plan *plan, const void *space, void *dweight, int threads); /* of a gradient */
double fc_sweep_share(const fc_conv_plan *plan); /* of the products, that parts leave */

/* One part, as a driver runs it: out = in * weight + bias. */
typedef struct fc_part {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    bool packed; /* planes.c */
    const char *in, *weight, *bias;
    char *out, *workspace;
} fc_part;
typedef void fc_part_run(const fc_part *part, int threads);
/* All of them, forward or input gradient. */
void fc_parts_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads,
                  fc_part_run *run, bool packed);

static inline ptrdiff_t fc_sweep_places(const fc_sweep *s)
{
    return s->axis[0].places * s->axis[1].places * s->axis[2].places;
}
static inline ptrdiff_t fc_sweep_taps(const fc_sweep *s) { return s->axis[0].taps * s->axis[1].taps * s->axis[2].taps; }
static inline ptrdiff_t fc_sweep_depth(const fc_sweep *s) { return s->channels * fc_sweep_taps(s); }
static inline ptrdiff_t fc_sweep_input(const fc_sweep *s)
{
    return s->axis[0].input * s->axis[1].input * s->axis[2].input;
}
static inline ptrdiff_t fc_sweep_output(const fc_sweep *s)
{
    return s->axis[0].output * s->axis[1].output * s->axis[2].output;
}

/* Each place is a pixel: of a plane or of a part of it. */
static inline bool fc_sweep_of_pixels(const fc_sweep *s)
{
    bool inside = true;
    for (int a = 0; a < 3; a++) {
        const fc_axis *ax = &s->axis[a];
        inside = inside && ax->taps == 1 && ax->step == 1 && ax->origin >= 0 && ax->places <= ax->input - ax->origin;
    }
    return inside;
}

/* And they are all of them. */
static inline bool fc_sweep_in_place(const fc_sweep *s)
{
    bool whole = fc_sweep_of_pixels(s);
    for (int a = 0; a < 3; a++)
        whole = whole && s->axis[a].places == s->axis[a].input;
    return whole;
}
/* The same problem, of one row, if each place is a pixel and they are all. */
fc_sweep fc_sweep_in_a_row(const fc_sweep *sweep);
#define FC_ALIAS 4096 /* bytes; rows a multiple of this apart share cache sets */

/* ---- stage.c: channels first ----------------------------------------------------------------------------- */

/* A box of the grid: images, then places along each axis. */
typedef struct fc_box {
    ptrdiff_t first[4], count[4];
} fc_box;

/* The grid cut into boxes of about the same number of places, each whole along the inner axes. */
typedef struct fc_boxes {
    ptrdiff_t count[4]; /* places of a box, at most */
    ptrdiff_t boxes[4]; /* boxes along each axis */
    ptrdiff_t total;
} fc_boxes;

/* Rows that are cut are cut to multiples of `unit`. */
fc_boxes fc_boxes_of(const fc_sweep *sweep, ptrdiff_t places, ptrdiff_t unit);
fc_box fc_box_at(const fc_sweep *sweep, const fc_boxes *boxes, ptrdiff_t index);
static inline ptrdiff_t fc_box_places(const fc_box *b) { return b->count[0] * b->count[1] * b->count[2] * b->count[3]; }

/* The part of the input that a box needs, copied with its padding so that every tap reads at unit stride: the taps of a strided
 * axis are sorted by residue (a polyphase split) into "subs", or, where that is less, each gets a sub of its own.
 * Element (channel, sub, image, d, h, w) lies at channel * pitch + sub * plane + ((image * length0 + d) * length1 + h) * length2 + w, and
 * the place (image, d, h, w) of the box at tap t at that place's own position plus the tap's offset. */
typedef struct fc_stage {
    fc_box box;
    ptrdiff_t period[3]; /* taps this far apart share a sub */
    ptrdiff_t subs[3], length[3];
    bool phased[3];
    ptrdiff_t plane, pitch;
} fc_stage;

fc_stage fc_stage_of(const fc_sweep *sweep, const fc_box *box);
/* Rows are whole multiples of `unit`, and hold what follows in the input. */
fc_stage fc_stage_of_rows(const fc_sweep *sweep, const fc_box *box, ptrdiff_t unit);
/* Input coordinate, along one axis, of the first element of a sub. */
ptrdiff_t fc_stage_start(const fc_axis axis[3], const fc_stage *stage, int a, ptrdiff_t sub);
/* Offsets of `count` reduction indices channel * taps + tap from k on, channels counted from `channel`. */
void fc_stage_offsets(const fc_sweep *sweep, const fc_stage *stage, ptrdiff_t k, ptrdiff_t count, ptrdiff_t channel,
                      ptrdiff_t *offsets);
/* Number of positions from the box's first place to its last: those between that are no places hold what is of no use. */
ptrdiff_t fc_stage_positions(const fc_stage *stage);
bool fc_stage_has_all_phases(const fc_sweep *sweep, const fc_stage *stage); /* of rows: all are copied at once */
/* in: (N, groups * channels, D, H, W), to: room for (last - first) * pitch + FC_SLACK elements. */
void fc_stage_fill(const fc_conv_plan *plan, const fc_sweep *sweep, const fc_stage *stage, ptrdiff_t group,
                   ptrdiff_t first_channel, ptrdiff_t last_channel, const void *in, void *to);

/* Copies `length` elements that start at coordinate `first` and lie `step` apart in a row of `size`; zeros outside it. */
void fc_stage_row(const fc_kernels *kernels, ptrdiff_t element, const char *row, ptrdiff_t first, ptrdiff_t step,
                  ptrdiff_t size, char *to, ptrdiff_t length);

/* ---- pixels.c: channels last ------------------------------------------------------------------------------ */

/* A stretch of the reduction (tap, channel) whose input elements are contiguous in an input row. */
typedef struct fc_piece {
    ptrdiff_t axis[2]; /* input coordinate along depth and height, relative to the place's tap 0 */
    ptrdiff_t element; /* along the row of (width, channels), relative to channel 0 of the place's tap 0 */
    ptrdiff_t to, length;
} fc_piece;

/* Lists the pieces of the reduction from k0 to k1, `to` counted from k0; at most k1 - k0 of them. */
ptrdiff_t fc_pieces_of(const fc_sweep *sweep, ptrdiff_t group, ptrdiff_t k0, ptrdiff_t k1, fc_piece *pieces);
/* Copies the pieces of `count` places from the first-th on, in (image, d, h, w) order, one place every `pitch` elements. */
void fc_pieces_gather(const fc_conv_plan *plan, const fc_sweep *sweep, const fc_piece *pieces, ptrdiff_t piece_count,
                      const void *in, ptrdiff_t first, ptrdiff_t count, void *to, ptrdiff_t pitch);

/* Splits the reduction into `*blocks` parts of at most FC_DEPTH, whole channels where they fit; returns a part's length. */
ptrdiff_t fc_depth_block(ptrdiff_t channels, ptrdiff_t taps, ptrdiff_t *blocks);

/* Bytes from the workspace of one worker to the next one's, if each needs so many: processors fetch ahead of reads in strides, by up to
 * eight of them, and what they fetch of another worker's has to be taken back from them before it is written. */
static inline size_t fc_worker_pitch(ptrdiff_t bytes) { return (size_t)(bytes + fc_min(bytes, FC_BETWEEN)); }

/* Takes `bytes` from the front of a workspace, keeping it aligned. */
static inline void *fc_take(char **space, ptrdiff_t bytes)
{
    void *taken = *space;
    *space += fc_round_up(bytes, FC_ALIGNMENT);
    return taken;
}

/* ---- bias.c ---------------------------------------------------------------------------------------------- */

/* The bias gradient of whoever does not sum dy up while it is at hand. */
void fc_bias_gradient(const fc_conv_plan *plan, const void *dy, void *dbias, int threads);
/* For whoever does: adds n elements to a total; and writes the sums, `parts` of them `pitch` apart added in order. */
void fc_bias_sum(const fc_conv_plan *plan, const void *dy, ptrdiff_t n, double *total);
void fc_bias_put(const fc_conv_plan *plan, const double *totals, ptrdiff_t parts, ptrdiff_t pitch, ptrdiff_t first,
                 ptrdiff_t count, void *dbias);
/* Of a transposed convolution: adds the bias to x. */
void fc_bias_add(const fc_conv_plan *plan, const void *bias, void *x, int threads);

/* ---- dilated.c: a dilated problem of stride 1, two-dimensional, as one that is not -------------------------- */

bool fc_is_dilated(const fc_conv_plan *plan);
/* NULL, or why it cannot be done: then the others may not be called. */
const char *fc_dilated_decline(const fc_conv_plan *plan);
fc_conv_plan fc_dilated_plan(const fc_conv_plan *plan);
ptrdiff_t fc_dilated_rounds(const fc_conv_plan *plan); /* how often the other plan is run */
double fc_dilated_cost(const fc_conv_plan *plan);      /* seconds of copies alone */
size_t fc_dilated_workspace(const fc_conv_plan *plan); /* bytes of copies alone */
/* Copies, has the plan's algorithm run the other plan, and copies back. */
void fc_dilated_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads);

/* ---- patches.c: a problem whose windows do not overlap, channels first, as one of 1x1 ----------------------- */

bool fc_patches_fit(const fc_conv_plan *plan); /* else the others may not be called */
/* The other problem's, of a round of images, with the algorithm that it takes. */
fc_conv_plan fc_patches_plan(const fc_conv_plan *plan);
double fc_patches_cost(const fc_conv_plan *plan); /* estimated seconds on one thread */
size_t fc_patches_workspace(const fc_conv_plan *plan, int threads);
void fc_patches_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);

/* ---- drivers: the loop nests around the micro-kernel ---------------------------------------------------- */

/* Channels first, forward and input gradient. packed: the image is copied into panels (im2col); else it is read in place (direct). */
double fc_planes_cost(const fc_conv_plan *plan, bool packed); /* estimated seconds on one thread */
size_t fc_planes_workspace(const fc_conv_plan *plan, bool packed, int threads);
void fc_planes_run(const fc_conv_plan *plan, bool packed, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Channels first, forward and input gradient of stride 1, with small planes or taps that lie outside the input of many places. */
const char *fc_points_decline(const fc_conv_plan *plan); /* NULL, or why not: then the others may not be called */
double fc_points_cost(const fc_conv_plan *plan);
size_t fc_points_workspace(const fc_conv_plan *plan, int threads);
void fc_points_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Channels last, forward and input gradient. */
size_t fc_pixels_workspace(const fc_conv_plan *plan, int threads);
void fc_pixels_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Weight gradient, either layout. */
size_t fc_weights_workspace(const fc_conv_plan *plan, int threads);
bool fc_weights_sum_bias(const fc_conv_plan *plan);
void fc_weights_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Depthwise, channels first, narrow planes. */
bool fc_depthwise_turned_fit(const fc_conv_plan *plan);
size_t fc_depthwise_turned_workspace(const fc_conv_plan *plan, int threads);
void fc_depthwise_turned_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Small planes that keep their size. */
bool fc_depthwise_planes_fit(const fc_conv_plan *plan);
size_t fc_depthwise_planes_workspace(const fc_conv_plan *plan, int threads);
void fc_depthwise_planes_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Depthwise 3x3 and 5x5, channels first, where a worker has room for it. */
bool fc_depthwise_lines_fit(const fc_conv_plan *plan);
size_t fc_depthwise_lines_workspace(const fc_conv_plan *plan, int threads);
void fc_depthwise_lines_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Its input gradient at stride 2. */
bool fc_depthwise_spread_fit(const fc_conv_plan *plan);
size_t fc_depthwise_spread_workspace(const fc_conv_plan *plan, int threads);
void fc_depthwise_spread_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
/* Adds the splits of a depthwise weight gradient in order and writes it. totals: [split][filter][each], of which the first are the taps'
 * and, where dbias is not NULL, the next one is the bias'; or, pitch being not 0, [split][each][pitch]. They are spoilt. */
void fc_depthwise_add(const fc_conv_plan *plan, double *totals, ptrdiff_t splits, ptrdiff_t each, ptrdiff_t pitch,
                      void *dweight, void *dbias, int threads);

#endif

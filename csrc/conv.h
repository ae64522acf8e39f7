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
};

/* An algorithm looks at a plan whose problem is valid and whose algorithm is not yet set. */
struct fc_conv_algorithm {
    const char *name;
    const char *(*decline)(const fc_conv_plan *plan); /* NULL, or why it cannot do the problem */
    double (*cost)(const fc_conv_plan *plan);         /* estimated seconds on one thread */
    size_t (*workspace)(const fc_conv_plan *plan, int threads);
    void (*run)(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
};

extern const fc_conv_algorithm fc_algorithm_direct, fc_algorithm_im2col, fc_algorithm_reference;

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
} fc_sweep;

fc_sweep fc_sweep_forward(const fc_conv_plan *plan);
/* The input gradient is one sweep over dy for each residue of the input coordinate modulo the stride: no products with the zeros
 * that striding would put between dy's elements. A phase may have no taps, and then writes zeros. */
ptrdiff_t fc_sweep_phases(const fc_conv_plan *plan);
fc_sweep fc_sweep_backward_input(const fc_conv_plan *plan, ptrdiff_t phase);

static inline ptrdiff_t fc_sweep_places(const fc_sweep *s)
{
    return s->axis[0].places * s->axis[1].places * s->axis[2].places;
}
static inline ptrdiff_t fc_sweep_taps(const fc_sweep *s) { return s->axis[0].taps * s->axis[1].taps * s->axis[2].taps; }
static inline ptrdiff_t fc_sweep_depth(const fc_sweep *s) { return s->channels * fc_sweep_taps(s); }
static inline ptrdiff_t fc_sweep_input(const fc_sweep *s) { return s->axis[0].input * s->axis[1].input * s->axis[2].input; }
static inline ptrdiff_t fc_sweep_output(const fc_sweep *s)
{
    return s->axis[0].output * s->axis[1].output * s->axis[2].output;
}

#endif

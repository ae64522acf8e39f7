/* fastconv.h -- convolution and pooling on the CPU: the whole public interface of the C library.
 *
 * A problem is described by a struct, planned once, and run many times:
 *
 *     fc_conv_problem problem = { .pass = FC_FORWARD, .dtype = FC_FLOAT32, ... };
 *     fc_conv_plan *plan;
 *     if (fc_conv_plan_create(&problem, "auto", 0, &plan, reason, sizeof reason) != FC_OK) ...
 *     void *workspace = aligned_alloc(FC_ALIGNMENT, fc_conv_plan_workspace(plan, threads));
 *     fc_conv_plan_run(plan, &arrays, workspace, threads);
 *
 * A plan never changes and may be run by many threads at once; arrays and workspace belong to the call.
 * Spatial axes always come in threes, depth, height, width; a 2-D problem has depth 1, a 1-D one height 1 too.
 * Arrays are dense, aligned to their element and do not overlap. */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FC_ALIGNMENT 64 /* bytes, of every workspace */

typedef enum fc_status {
    FC_OK = 0,
    FC_INVALID,     /* the problem makes no sense */
    FC_UNSUPPORTED, /* it does, but nothing here can do it */
    FC_NOMEM
} fc_status;

typedef enum fc_dtype { FC_FLOAT32, FC_FLOAT64 } fc_dtype;
typedef enum fc_layout { FC_CHANNELS_FIRST, FC_CHANNELS_LAST } fc_layout; /* (N,C,D,H,W) or (N,D,H,W,C) */

/* ---- convolution ---------------------------------------------------------------------------------------- */

typedef enum fc_pass {
    FC_FORWARD,        /* reads x, weight, bias (or NULL);  writes y                    */
    FC_BACKWARD_INPUT, /* reads y as dy, weight, bias (or NULL), of in_channels; writes x as dx, plus bias: with one it
                          is the transposed convolution */
    FC_BACKWARD_WEIGHT /* reads x, y as dy;                 writes weight, bias as dweight, dbias, each unless NULL */
} fc_pass;

typedef struct fc_conv_problem {
    fc_pass pass;
    fc_dtype dtype;
    fc_layout layout;
    ptrdiff_t batch, in_channels, out_channels, groups;
    ptrdiff_t input[3], kernel[3], stride[3], dilation[3];
    ptrdiff_t pad_before[3], pad_after[3]; /* zeros on either side of the input */
    int relu;                              /* forward: y = max(y, 0) where it is stored */
} fc_conv_problem;

typedef struct fc_conv_arrays {
    void *x;      /* (N,C,D,H,W) or (N,D,H,W,C) */
    void *weight; /* (K, C/groups, kd, kh, kw) in either layout */
    void *bias;   /* (K); (C) in FC_BACKWARD_INPUT */
    void *y;      /* (N,K,od,oh,ow) or (N,od,oh,ow,K) */
} fc_conv_arrays;

typedef struct fc_conv_plan fc_conv_plan;

/* Output length of one axis, or -1 where the window does not fit or a size is out of range. */
ptrdiff_t fc_conv_output_length(ptrdiff_t input, ptrdiff_t kernel, ptrdiff_t stride, ptrdiff_t dilation,
                                ptrdiff_t pad_before, ptrdiff_t pad_after);

/* algorithm: "auto" or a name that fc_conv_algorithm gives. workspace_limit: bytes per thread, 0 for 64 MiB.
 * On failure *plan is NULL and reason (if not NULL) holds a sentence. */
fc_status fc_conv_plan_create(const fc_conv_problem *problem, const char *algorithm, size_t workspace_limit,
                              fc_conv_plan **plan, char *reason, size_t reason_size);
void fc_conv_plan_destroy(fc_conv_plan *plan);
size_t fc_conv_plan_workspace(const fc_conv_plan *plan, int threads); /* bytes */
void fc_conv_plan_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads);
const char *fc_conv_plan_algorithm(const fc_conv_plan *plan);
/* Number of elements of x (0), weight (1), bias (2), y (3): what the caller's arrays must hold. */
ptrdiff_t fc_conv_plan_elements(const fc_conv_plan *plan, int array);

/* The index-th algorithm of the list, in order of preference; NULL past the end. */
const char *fc_conv_algorithm_name(int index);
/* *declined is NULL if it can do the problem, else why not; *cost is its estimated time in seconds on one thread. */
fc_status fc_conv_algorithm_examine(int index, const fc_conv_problem *problem, const char **declined, double *cost);

/* Locally connected: a convolution without groups whose weight, (od, oh, ow, K, C, kd, kh, kw), and bias, (od, oh, ow, K),
 * differ from place to place. Passes and arrays are a convolution's, but BACKWARD_INPUT has no bias. */
fc_status fc_local(const fc_conv_problem *problem, const fc_conv_arrays *arrays, int threads);
/* As fc_conv_plan_elements; -1 where the problem makes no sense. */
ptrdiff_t fc_local_elements(const fc_conv_problem *problem, int array);

/* ---- pooling -------------------------------------------------------------------------------------------- */

/* Output o of an axis looks at input positions o * stride - pad_before + t * dilation, t < kernel; those outside the
 * input are padding. The output's lengths are the caller's, who decides about rounding; windows may hang over. */
typedef struct fc_pool_problem {
    fc_dtype dtype;
    fc_layout layout;
    ptrdiff_t batch, channels;
    ptrdiff_t input[3], output[3], kernel[3], stride[3], dilation[3];
    ptrdiff_t pad_before[3], pad_after[3];
    int adaptive; /* output o looks at input positions floor(o * input / output) .. ceil((o + 1) * input / output) - 1;
                     kernel, stride, dilation and padding are then as for a window of one element */
    int count_padding; /* averages: padding counts as zeros; what lies beyond it never counts */
    int wide;          /* switches are int64_t, not int32_t: required where an input plane has 2^31 elements or more */
} fc_pool_problem;

/* Number of elements of x (0) and of y and switches (1), or -1 where the problem makes no sense. */
ptrdiff_t fc_pool_elements(const fc_pool_problem *problem, int array);

/* A switch is the winner's flat index in its own (D,H,W) plane. The first of equals wins, and the first NaN wins over
 * any number. Padding never wins; a window of nothing else gives -infinity and the switch -1. switches may be NULL. */
fc_status fc_max_pool(const fc_pool_problem *problem, const void *x, void *y, void *switches, int threads);
/* Adds dy up where the switches say; -1 drops it. Of the windows only the output's lengths matter. FC_INVALID for a
 * switch outside the plane. */
fc_status fc_max_pool_backward(const fc_pool_problem *problem, const void *dy, const void *switches, void *dx,
                               int threads);
/* The average of nothing (padding alone, and padding does not count) is NaN. */
fc_status fc_avg_pool(const fc_pool_problem *problem, const void *x, void *y, int threads);
fc_status fc_avg_pool_backward(const fc_pool_problem *problem, const void *dy, void *dx, int threads);

/* The image matrix: what each window of such a problem sees, padding as zeros, (N, C * taps, places) or, channels last,
 * (N, places, taps * C). fc_col2im is its transpose: it adds up what goes back to the same element. */
ptrdiff_t fc_columns_elements(const fc_pool_problem *problem); /* -1 where the problem makes no sense */
fc_status fc_im2col(const fc_pool_problem *problem, const void *x, void *columns, int threads);
fc_status fc_col2im(const fc_pool_problem *problem, const void *columns, void *x, int threads);
/* Averages of whole planes, n elements each: y (planes); and their gradient. */
fc_status fc_plane_means(fc_dtype dtype, const void *x, ptrdiff_t planes, ptrdiff_t n, void *y, int threads);
fc_status fc_plane_means_backward(fc_dtype dtype, const void *dy, ptrdiff_t planes, ptrdiff_t n, void *dx, int threads);

/* Puts each element of y where its switch says, and zeros elsewhere; of several for one place the last counts. */
fc_status fc_max_unpool(const fc_pool_problem *problem, const void *y, const void *switches, void *x, int threads);
/* Its gradient: dy = dx where the switches say. */
fc_status fc_max_unpool_backward(const fc_pool_problem *problem, const void *dx, const void *switches, void *dy,
                                 int threads);

/* One element of each window, drawn with a probability in proportion to its value (negative ones count as 0; where there
 * are no others, the first element). A window in padding alone gives 0 and the switch -1. */
fc_status fc_stochastic_pool(const fc_pool_problem *problem, const void *x, void *y, void *switches, uint64_t seed,
                             int threads);

/* ---- elementwise and softmax ------------------------------------------------------------------------------ */

typedef enum fc_activation { FC_RELU, FC_SIGMOID, FC_TANH, FC_ACTIVATIONS } fc_activation;

/* n elements each. The gradient is computed from the result y. */
fc_status fc_activate(fc_activation kind, fc_dtype dtype, const void *x, void *y, ptrdiff_t n, int threads);
fc_status fc_activate_backward(fc_activation kind, fc_dtype dtype, const void *dy, const void *y, void *dx, ptrdiff_t n,
                               int threads);

/* Arrays of shape (outer, classes, inner), normalised along the middle. */
typedef struct fc_softmax_problem {
    fc_dtype dtype;
    ptrdiff_t outer, classes, inner;
} fc_softmax_problem;

/* outer * classes * inner, or -1 where the problem makes no sense. */
ptrdiff_t fc_softmax_elements(const fc_softmax_problem *problem);
fc_status fc_softmax(const fc_softmax_problem *problem, const void *x, void *y, int threads);
fc_status fc_softmax_backward(const fc_softmax_problem *problem, const void *dy, const void *y, void *dx, int threads);

/* loss (outer, inner) = -sum over classes of target * log softmax(logits); dlogits, if not NULL, is its gradient times
 * scale. Exactly one of classes (outer, inner) and probabilities (outer, classes, inner) is not NULL. FC_INVALID for a
 * class that does not exist. */
fc_status fc_cross_entropy(const fc_softmax_problem *problem, const void *logits, const int64_t *classes,
                           const void *probabilities, void *loss, void *dlogits, double scale, int threads);

fc_status fc_log_softmax(const fc_softmax_problem *problem, const void *x, void *y, int threads);
fc_status fc_log_softmax_backward(const fc_softmax_problem *problem, const void *dy, const void *y, void *dx,
                                  int threads);

/* loss (outer, inner) = sum over all but the own class of max(0, x - x[own] + margin); dx, if not NULL, is its gradient
 * times scale. FC_INVALID for a class that does not exist. */
fc_status fc_hinge(const fc_softmax_problem *problem, const void *x, const int64_t *classes, void *loss, void *dx,
                   double margin, double scale, int threads);

/* *sum = sum of (a - b)^2 over n elements. squares: each of them, slopes: scale (a - b), unless NULL. */
fc_status fc_squared_error(fc_dtype dtype, const void *a, const void *b, ptrdiff_t n, double scale, double *sum,
                           void *squares, void *slopes, int threads);

/* Elementwise, with parameters p[0], p[1]. A gradient takes dy for a. */
typedef enum fc_map {
    FC_ADD_RELU,           /* max(a + b, 0) */
    FC_LEAKY,              /* a where b > 0, p[0] a elsewhere */
    FC_ELU,                /* a where a > 0, p[0] (e^a - 1) elsewhere */
    FC_ELU_BACKWARD,       /* a where b > 0, a (b + p[0]) elsewhere; b is the result */
    FC_SOFTPLUS,           /* log(1 + e^(p[0] a)) / p[0] */
    FC_SOFTPLUS_BACKWARD,  /* a / (1 + e^(-p[0] b)) */
    FC_POWER,              /* |a|^p[0]; of 0 it is 0, or 1 for p[0] = 0 */
    FC_POWER_TIMES,        /* a |b|^p[0], alike */
    FC_SIGNED_POWER_TIMES, /* the same with b's sign */
    FC_MIX,                /* p[0] a + p[1] b */
    FC_MAPS
} fc_map;
fc_status fc_map_elements(fc_map kind, fc_dtype dtype, const void *a, const void *b, void *out, ptrdiff_t n,
                          const double parameters[2], int threads);

/* Arrays of rows, each dense, the rows so many bytes apart: to = from, and to = to + from. They may not overlap. */
fc_status fc_copy_rows(const void *from, ptrdiff_t from_stride, void *to, ptrdiff_t to_stride, ptrdiff_t rows,
                       ptrdiff_t bytes, int threads);
fc_status fc_add_rows(fc_dtype dtype, const void *from, ptrdiff_t from_stride, void *to, ptrdiff_t to_stride,
                      ptrdiff_t rows, ptrdiff_t bytes, int threads);

/* Random masks, the same for the same seed: out = a / (1 - p) with probability 1 - p, else 0; */
fc_status fc_dropout(fc_dtype dtype, const void *a, void *out, ptrdiff_t n, double p, uint64_t seed, int threads);
/* out = a where b > 0, elsewhere a times a number from low to high. */
fc_status fc_rrelu(fc_dtype dtype, const void *a, const void *b, void *out, ptrdiff_t n, double low, double high,
                   uint64_t seed, int threads);

/* One step of stochastic gradient descent over n elements. With velocity (NULL if momentum is 0):
 * g = grad + weight_decay * value; velocity = momentum * velocity + g;
 * value -= rate * (nesterov ? g + momentum * velocity : velocity). */
typedef struct fc_sgd_step {
    double rate, momentum, weight_decay;
    int nesterov;
} fc_sgd_step;
fc_status fc_sgd(const fc_sgd_step *step, fc_dtype dtype, void *value, const void *grad, void *velocity, ptrdiff_t n,
                 int threads);

/* ---- normalization ------------------------------------------------------------------------------------------ */

/* Arrays of (outer, channels, inner); channels last is inner = 1. */
typedef struct fc_norm_problem {
    fc_dtype dtype;
    ptrdiff_t outer, channels, inner;
} fc_norm_problem;

/* outer * channels * inner, or -1 where the problem makes no sense. */
ptrdiff_t fc_norm_elements(const fc_norm_problem *problem);

/* Batch normalization: y = (x - mean) / sqrt(variance + eps) * weight + bias, then max(y, 0) if relu. weight and bias,
 * one for each channel, may be NULL. Training, mean and variance are written: x's own, the variance the biased one. */
typedef struct fc_batch_norm {
    fc_norm_problem problem;
    const void *weight, *bias;
    double *mean, *variance;
    double eps;
    int training, relu;
    ptrdiff_t x_step; /* elements of x from one outer element to the next: 0, or more than there are in one */
} fc_batch_norm;
fc_status fc_batch_norm_forward(const fc_batch_norm *norm, const void *x, void *y, int threads);
/* Training, mean and variance count as functions of x. dx, dweight and dbias may each be NULL. */
fc_status fc_batch_norm_backward(const fc_batch_norm *norm, const void *dy, const void *x, void *dx, void *dweight,
                                 void *dbias, int threads);

/* out = a where b > 0, a times the channel's weight elsewhere. */
fc_status fc_prelu(const fc_norm_problem *problem, const void *a, const void *b, const void *weight, void *out,
                   int threads);

/* Local response normalization across channels: y[c] = x[c] (k + alpha * sum of x[c - before .. c + after]^2)^-beta. */
typedef struct fc_lrn {
    fc_norm_problem problem;
    ptrdiff_t before, after;
    double alpha, beta, k;
} fc_lrn;
fc_status fc_lrn_forward(const fc_lrn *lrn, const void *x, void *y, int threads);
fc_status fc_lrn_backward(const fc_lrn *lrn, const void *dy, const void *x, void *dx, int threads);

/* ---- storage types ------------------------------------------------------------------------------------------- */

/* Numbers of 16 bits that arrays are kept in and nothing is computed in. */
typedef enum fc_storage { FC_FLOAT16, FC_BFLOAT16 } fc_storage;
fc_status fc_widen(fc_storage kind, const void *from, float *to, ptrdiff_t n, int threads);
/* Rounded to the nearest, to the even one of two; what is too large becomes infinite, NaN stays NaN. */
fc_status fc_narrow(fc_storage kind, const float *from, void *to, ptrdiff_t n, int threads);
/* y = max(x, 0), and dx = dy where y is positive, of numbers as they are stored; distinct arrays. */
fc_status fc_relu_stored(fc_storage kind, const void *x, void *y, ptrdiff_t n, int threads);
fc_status fc_relu_backward_stored(fc_storage kind, const void *dy, const void *y, void *dx, ptrdiff_t n, int threads);

/* ---- runtime -------------------------------------------------------------------------------------------- */

/* Instruction sets built in and supported by this CPU, best first; NULL past the end. */
const char *fc_isa_available(int index);
const char *fc_isa(void);                  /* the one in use; plans keep the one that they were made with */
fc_status fc_isa_select(const char *name); /* NULL or "": the best. FC_INVALID if it is not available */
int fc_openmp(void);                       /* 1 if compiled with OpenMP */
int fc_default_threads(void);              /* from affinity, cgroup quota and OMP_NUM_THREADS */
const char *fc_compiler(void);
/* For tests: as if threads had no cache in common (1), or one (0); -1: as is measured. */
void fc_threads_set_apart(int apart);
/* For tests: plans that are made from now on are for second-level caches of so many bytes; 0: of those that there are. */
void fc_l2_set(ptrdiff_t bytes);

/* Memory for results and workspaces, which is kept when it is released, because fresh pages cost more than many a
 * convolution: never more than was in use at a time in the last seconds. Aligned to FC_ALIGNMENT. Thread-safe. */
void *fc_memory_acquire(size_t bytes);            /* NULL if there is none */
void fc_memory_release(void *memory);             /* or NULL */
size_t fc_memory_size(const void *memory);        /* usable bytes, of what is acquired */
void fc_memory_usage(size_t *live, size_t *held); /* bytes in use, and of the pages held for them and others */
void fc_memory_trim(void);                        /* give back to the system what is idle */

#ifdef __cplusplus
}
#endif
#endif

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
    FC_FORWARD,         /* reads x, weight, bias (or NULL);  writes y                    */
    FC_BACKWARD_INPUT,  /* reads y as dy, weight;            writes x as dx              */
    FC_BACKWARD_WEIGHT  /* reads x, y as dy;                 writes weight, bias as dweight, dbias, each unless NULL */
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
    void *bias;   /* (K) */
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

/* ---- runtime -------------------------------------------------------------------------------------------- */

/* Instruction sets built in and supported by this CPU, best first; NULL past the end. */
const char *fc_isa_available(int index);
const char *fc_isa(void);                /* the one in use; plans keep the one that they were made with */
fc_status fc_isa_select(const char *name); /* NULL or "": the best. FC_INVALID if it is not available */
int fc_openmp(void);                     /* 1 if compiled with OpenMP */
int fc_default_threads(void);            /* from affinity, cgroup quota and OMP_NUM_THREADS */
const char *fc_compiler(void);

/* Workspaces, kept between calls because fresh pages cost more than many a convolution. Thread-safe. */
void *fc_workspace_acquire(size_t bytes); /* NULL if there is no memory */
void fc_workspace_release(void *workspace);
void fc_workspace_trim(void); /* give idle ones back to the system */

#ifdef __cplusplus
}
#endif
#endif

/* core.h -- what the C library's own files share: thread seam, kernel tables, small helpers.
 * Kernels (kernels/, and the isa files that include them) see this file and nothing else. */
#ifndef FC_CORE_H
#define FC_CORE_H

#include "fastconv.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* ---- small helpers -------------------------------------------------------------------------------------- */

#define FC_CAT_(a, b) a##b
#define FC_CAT(a, b) FC_CAT_(a, b)

/* Before a loop whose count is a constant once inlined: without it GCC leaves arrays of accumulators in memory. */
#ifdef __clang__
#define FC_UNROLL _Pragma("clang loop unroll(full)") /* "unroll" comes too late: sums would be stored at every step */
#define FC_UNROLL_BY_4 _Pragma("unroll 4")
#define FC_ROLLED _Pragma("nounroll")
#else
#define FC_UNROLL _Pragma("GCC unroll 16")
#define FC_UNROLL_BY_4 _Pragma("GCC unroll 4")
#define FC_ROLLED _Pragma("GCC unroll 1")
#endif

static inline ptrdiff_t fc_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t fc_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t fc_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; } /* a >= 0, b > 0 */
static inline ptrdiff_t fc_round_up(ptrdiff_t a, ptrdiff_t b) { return fc_ceil_div(a, b) * b; }
static inline ptrdiff_t fc_gcd(ptrdiff_t a, ptrdiff_t b)
{
    while (b) {
        ptrdiff_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}
/* Every size, coordinate and byte offset stays below this, so that sums and differences of a few cannot overflow. */
#define FC_LARGEST (PTRDIFF_MAX / 64)
/* False if the product would not stay below it. */
static inline bool fc_multiply(ptrdiff_t *product, ptrdiff_t factor)
{
    return factor >= 0 && !__builtin_mul_overflow(*product, factor, product) && *product <= FC_LARGEST;
}
static inline size_t fc_size_of(fc_dtype dtype) { return dtype == FC_FLOAT32 ? 4 : 8; }

/* ---- threads (thread.c) --------------------------------------------------------------------------------- */

/* Calls task(context, i, worker) for i = 0 .. tasks-1, each once, on up to `threads` workers (0 <= worker < threads), in
 * no promised order. Tasks must not depend on which worker runs them: that is what keeps results bitwise the same. */
typedef void fc_task(void *context, ptrdiff_t index, int worker);
void fc_parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context);
/* The same for tasks that are alike and do little but move memory: each worker has a stretch of them, and leaves the last few of another's
 * to it, since what they move lies in its cache. */
void fc_parallel_alike(int threads, ptrdiff_t tasks, fc_task *task, void *context);
/* Whether threads have no cache in common: then what others read is better written past all of them. Measured, as it changes where a virtual
 * machine's processors are moved; results do not depend on it. Not to be called by a task. */
bool fc_threads_apart(int threads);
/* Which of them most likely comes next on the same worker: what it reads can be fetched. It may be none, past the last. */
ptrdiff_t fc_task_after(int threads, ptrdiff_t tasks, ptrdiff_t index);

/* ---- cache.c ------------------------------------------------------------------------------------------------ */

/* Bytes of a processor's second-level cache; where it is not known, 1 MiB. Results may depend on it, in their last bits. */
ptrdiff_t fc_l2(void);

/* ---- the matrix micro-kernel (kernels/product.inc) -------------------------------------------------------- */

/* One register tile: C (rows x width) = or += A (rows x depth) B (depth x width), then bias and ReLU.
 * A is held by rows, element (i, k) at a[i * lda + k], or as a panel, at a[k * lda + i].
 * B is held by rows, row k at b[k * ldb], or indirect, row k at b[offsets[k]] (no alignment needed in either). */
#define FC_DEPTH 256           /* most that one tile reduces over */
#define FC_LDA (FC_DEPTH + 16) /* not a power of two: rows must not share cache sets */

typedef struct fc_tile {
    const void *a, *b;
    const ptrdiff_t *offsets;
    ptrdiff_t depth, lda, ldb;
    void *c; /* row i at c[i * ldc] */
    ptrdiff_t ldc;
    const void *row_bias, *column_bias; /* (rows), (width), or NULL */
    bool accumulate;                    /* add to what C holds */
    bool relu;
    bool streamed; /* C goes past the caches: its rows are whole lines */
    void *kept;    /* B's rows are copied here side by side, by the kernels that keep them */
    /* memory that is needed soon: a tile's width is fetched in each of so many steps, ahead_step elements apart */
    const void *ahead;
    ptrdiff_t ahead_step, ahead_count;
} fc_tile;

typedef void fc_tile_kernel(const fc_tile *tile);
typedef void fc_tiles_kernel(const fc_tile *first, ptrdiff_t tiles); /* so many that follow one another in B and in C */

/* A stretch of elements to be copied. */
typedef struct fc_run {
    ptrdiff_t from, to, length;
} fc_run;

#define FC_SLACK 64 /* elements that a kernel may read or write past the end of a workspace array */

#define FC_BETWEEN ((ptrdiff_t)512 << 10) /* bytes between the workspaces of workers, at most: see fc_worker_pitch */
#define FC_MAX_ROWS 16                    /* bounds every table's rows */
enum { FC_NARROW, FC_WIDE, FC_SLIM, FC_WIDTHS }; /* FC_SLIM: one vector; B by rows, or tiles side by side */

/* ---- pooling (kernels/pool.inc) ---------------------------------------------------------------------------- */

typedef struct fc_pool_job {
    const fc_pool_problem *problem;
    const void *from; /* x; dy in gradients */
    void *to;         /* y; dx in gradients */
    void *switches;
    uint64_t key;  /* of random numbers */
    bool streamed; /* `to` and switches go past the caches, where the kernel can */
} fc_pool_job;

/* Does units first .. last-1 of a job: rows of `to`, that is runs of one (n, c, d, h) or, channels last, (n, d, h). */
typedef void fc_pool_kernel(const fc_pool_job *job, ptrdiff_t first, ptrdiff_t last);
/* The same in units of (n, c) planes or, channels last, of FC_SCATTER_CHANNELS channels of an image. False: a bad
 * switch. */
typedef bool fc_scatter_kernel(const fc_pool_job *job, ptrdiff_t first, ptrdiff_t last);
#define FC_SCATTER_CHANNELS 64

/* a / b for a >= 0, b > 0. Divisions of few bits are several times as fast, and these are almost always such. */
static inline ptrdiff_t fc_quotient(ptrdiff_t a, ptrdiff_t b)
{
    if (b == 1)
        return a;
    return ((uint64_t)a | (uint64_t)b) >> 32 ? a / b : (ptrdiff_t)((uint32_t)a / (uint32_t)b);
}

/* Where a row of an array of (plane, d, h, w) stands. */
typedef struct fc_row {
    ptrdiff_t plane, d, h;
} fc_row;

static inline fc_row fc_row_at(ptrdiff_t row, const ptrdiff_t lengths[3])
{
    const ptrdiff_t upper = fc_quotient(row, lengths[1]), plane = fc_quotient(upper, lengths[0]);
    const fc_row at = {plane, upper - plane * lengths[0], row - upper * lengths[1]};
    return at;
}

/* `rows` further on, at most to the next d */
static inline fc_row fc_row_after(fc_row at, ptrdiff_t rows, const ptrdiff_t lengths[3])
{
    at.h += rows;
    if (at.h == lengths[1]) {
        at.h = 0;
        if (++at.d == lengths[0]) {
            at.d = 0;
            at.plane++;
        }
    }
    return at;
}

/* The taps first .. last-1 of a window that starts at `start` which lie in 0 .. size-1. */
typedef struct fc_taps {
    ptrdiff_t first, last;
} fc_taps;

static inline fc_taps fc_taps_inside(ptrdiff_t start, ptrdiff_t kernel, ptrdiff_t dilation, ptrdiff_t size)
{
    fc_taps taps = {0, 0};
    if (dilation == 1) {
        taps.first = fc_max(0, -start);
        taps.last = fc_min(kernel, size - start);
    } else {
        taps.first = start < 0 ? fc_ceil_div(-start, dilation) : 0;
        taps.last = start < size ? fc_min(kernel, (size - 1 - start) / dilation + 1) : 0;
    }
    taps.last = fc_max(taps.first, taps.last);
    return taps;
}

/* ---- elementwise (kernels/elementwise.inc) ------------------------------------------------------------------ */

/* Results of so many bytes are written past the caches, which would have dropped them before they are read. */
#define FC_STREAMED ((ptrdiff_t)16 << 20)

/* out[i] = f(a[i]), or in gradients f(a[i], b[i]) */
typedef void fc_map_kernel(const void *a, const void *b, void *out, ptrdiff_t n);

/* The vectors of one softmax: element k at [k * step], `count` of them side by side. */
typedef struct fc_softmax_job {
    ptrdiff_t classes, step, count;
    const void *x;             /* logits; y in softmax's gradient */
    const void *dy;            /* softmax's gradient */
    void *y;                   /* softmax's result, or a gradient; NULL if none is wanted */
    const int64_t *target;     /* cross entropy: (count), or NULL */
    const void *probabilities; /* cross entropy: laid out as x, or NULL */
    void *loss;                /* cross entropy: (count) */
    double scale;              /* of a loss' gradient */
    double margin;             /* hinge loss */
} fc_softmax_job;
typedef void fc_softmax_kernel(const fc_softmax_job *job);

/* ---- maps with parameters, random masks (kernels/maps.inc) --------------------------------------------------- */

typedef void fc_parameter_kernel(const void *a, const void *b, void *out, ptrdiff_t n, const double *parameters);

typedef struct fc_draw {
    uint64_t key; /* a seed, mixed */
    uint32_t threshold;
    double low, high;
} fc_draw;
/* index: of the first element, even */
typedef void fc_draw_kernel(const void *a, const void *b, void *out, ptrdiff_t n, const fc_draw *draw, uint64_t index);

/* The finaliser of SplitMix64: neighbouring seeds become keys that have nothing in common. */
static inline uint64_t fc_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 32 random bits for element i, as the vectors of kernels/maps.inc have them. */
static inline uint32_t fc_draw_one(uint64_t key, uint64_t i)
{
    return (uint32_t)(fc_mix((i / 2 + 1) * 0x9e3779b97f4a7c15u + key) >> (i % 2 * 32));
}

/* ---- normalization (kernels/norm.inc) ----------------------------------------------------------------------- */

/* Runs of `length` elements, `pitch` apart (those of x may lie further apart): of one channel, or rows of which each element is
 * a channel. Parameters are of the kernel's type, one or a row of them, which may be read a vector past its end. */
typedef struct fc_norm_job {
    const void *x, *dy;
    void *y; /* dx in gradients */
    ptrdiff_t pitch, x_pitch, runs, length;
    ptrdiff_t planes;                 /* channels whose runs lie side by side: of sums */
    const void *end;                  /* up to where both x and dy can be read, counted in x; not of runs */
    const void *mean, *scale, *shift; /* y = (x - mean) scale + shift */
    const void *constant, *slope;     /* dx = dy scale + constant + (x - mean) slope */
    bool relu;                        /* y = max(y, 0) */
    bool streamed;                    /* y goes past the caches */
    double *sums;                     /* mean and squared deviations; sums of dy and dy (x - mean): [2][channels] */
} fc_norm_job;
typedef void fc_norm_kernel(const fc_norm_job *job);

/* Pixels of one image: `count` side by side, channels `pitch` apart, or channels side by side. */
typedef struct fc_lrn_job {
    const void *x, *dy;
    void *y; /* dx in gradients */
    ptrdiff_t channels, pitch, count, before, after;
    double alpha, beta, k; /* y = x (k + alpha * sum of squares)^-beta */
    void *scratch;
} fc_lrn_job;
typedef void fc_lrn_kernel(const fc_lrn_job *job);

/* ---- Winograd (kernels/winograd.inc) ---------------------------------------------------------------------- */

/* Along an axis the points are 0, infinity, and pairs; a tile uses the first 4 to 8 of them, for its points + 1 - taps outputs. Points that
 * the same tiles use are a class: the first 4, and then each for itself. */
#define FC_WINOGRAD_SIDE 8
#define FC_WINOGRAD_LEAST 4
#define FC_WINOGRAD_TAPS 7 /* most of them; there are no transforms for 6 */
#define FC_WINOGRAD_CLASSES (FC_WINOGRAD_SIDE - FC_WINOGRAD_LEAST + 1)
static inline int fc_winograd_class(int point) { return point < FC_WINOGRAD_LEAST ? 0 : point - FC_WINOGRAD_LEAST + 1; }
static inline int fc_winograd_first(int class) { return class ? class + FC_WINOGRAD_LEAST - 1 : 0; } /* of its points */

/* Of a tile, down and across. */
typedef struct fc_winograd_size {
    int taps[2], points[2];
    int alike[2]; /* of x and dy: how many rows of points lie evenly apart, at first, and from there on at a time */
} fc_winograd_size;

/* Filters' transforms, to whole pairs of points: point (i, j) of vector v of the n-th to[(i * points across + j) * pitch + n * to_step +
 * v * lanes]. */
typedef struct fc_winograd_filter {
    fc_winograd_size size;
    const void *from;
    const ptrdiff_t *at; /* tap (i, j) at from[at[i * taps across + j] + n * from_step + v * from_vector], or < 0: 0 */
    ptrdiff_t from_step, from_vector, count, vectors;
    void *to;
    ptrdiff_t pitch, to_step;
    bool streamed; /* past the caches, where the kernel can */
} fc_winograd_filter;

/* A tile's output: from to, a row every `pitch`, a pixel every vector or, woven, every second one. */
typedef struct fc_winograd_out {
    void *to;
    ptrdiff_t pitch, rows, columns; /* those beyond are computed but not written */
    const void *bias;               /* one vector */
    bool relu, woven;
} fc_winograd_out;

typedef struct fc_winograd_tile {
    const void *v, *u;
    void *m;
    ptrdiff_t pitch, depth; /* of v from one vector of channels to the next; channels */
    /* of a kernel that leaves out vectors of channels: these take turns in so many phases, of which u is zero in some, a bit each */
    int phases;
    unsigned void_phases;
    const void *next; /* fetched meanwhile, a vector for each channel; for each vector of channels a pitch further on */
    ptrdiff_t next_pitch;
    bool accumulate;
} fc_winograd_tile;

typedef void fc_winograd_tile_kernel(const fc_winograd_tile *tile);

typedef struct fc_winograd_outer {
    const void *x, *dy; /* [tile][lanes], and so for each vector of filters, dy_pitch apart */
    ptrdiff_t dy_pitch, tiles;
    ptrdiff_t channels; /* that are wanted; some more may be written */
    const void *next;   /* fetched meanwhile, lanes / outer_rows vectors a tile */
    void *s;            /* [channel][filter], channels `pitch` apart */
    ptrdiff_t pitch;
    bool accumulate;
} fc_winograd_outer;

/* A transform of a tile, spatial to points: x or dy. */
typedef void fc_winograd_in(const void *from, ptrdiff_t pitch, const fc_winograd_size *size, void *to,
                            const ptrdiff_t *table, const ptrdiff_t *slots);

/* Memory that is touched soon: fetched into the second-level cache, bit by bit, while the kernel computes. */
typedef struct fc_ahead {
    const void *at;
    ptrdiff_t bytes;
} fc_ahead;

/* ---- Winograd down, plain sums across (kernels/winograd_lines.inc) ------------------------------------------ */

/* Filters of one group as their points, [point][channels][across][filters]; steps are elements, and negative where a kernel is turned. */
typedef struct fc_winograd_lines_filter {
    const void *from;
    ptrdiff_t filter_step, channel_step, row_step, column_step;
    ptrdiff_t filters, channels, across;
    int taps, points; /* of whole pairs */
    void *to;
} fc_winograd_lines_filter;

/* A segment's rows of outputs of some filters, from its input's points. */
typedef struct fc_winograd_lines {
    int taps, points; /* down */
    const void *v;    /* element k of the sum for column i at point p: v[p * pitch + offsets[k] + i] */
    ptrdiff_t pitch;
    const ptrdiff_t *offsets;
    ptrdiff_t depth;  /* elements of the sum: channels and taps across */
    const void *u;    /* [point][depth][filters] */
    const void *bias; /* [filters], or NULL */
    ptrdiff_t filters;
    void *to;
    ptrdiff_t plane, width;  /* elements of a filter's output, and of a row */
    ptrdiff_t rows, columns; /* of the output; columns are a vector of them at least */
    bool relu;
    bool streamed; /* whole lines of the output go past the caches */
    /* Other channels' sums are added to; others are to follow. Sums: a vector for each of columns, filters, points. */
    bool continued, unfinished;
    void *sums;
} fc_winograd_lines;

/* What segments of one size add to the points of the weight gradient of some filters: products summed over columns, each lane for
 * itself. */
typedef struct fc_winograd_lines_sum {
    int points;
    ptrdiff_t segments;
    const void *v; /* as above; `step` elements from segment to segment */
    ptrdiff_t pitch, step;
    const ptrdiff_t *offsets;
    ptrdiff_t depth;
    const void *dy; /* points of dy: [segments][filters][columns of the segment] at dy + p * dy_pitch */
    ptrdiff_t dy_pitch;
    const ptrdiff_t *columns; /* of each segment: whole vectors */
    ptrdiff_t filters;
    void *sums;            /* vectors: [point][depth][filters], added to */
    const fc_ahead *ahead; /* of each filter; bytes for each point */
} fc_winograd_lines_sum;

/* ---- depthwise kernels (kernels/depthwise.inc) ------------------------------------------------------------- */

/* Rows of an image to be copied to where they are staged; from and to, pitches and step in elements. */
typedef struct fc_patch {
    ptrdiff_t from, from_pitch, step, to, to_pitch, rows, columns;
} fc_patch;

/* The taps of a window that share what they load: in columns of 1, 3, 5 or 7 (channels first) or lines of as many (channels last), the
 * places one step or two apart. */
enum { FC_WINDOW_1, FC_WINDOW_3, FC_WINDOW_3_STEP_2, FC_WINDOW_5, FC_WINDOW_5_STEP_2, FC_WINDOW_7, FC_WINDOWS };

/* Rows of one plane. The taps are [slices][height][width], the height as the window says. */
typedef struct fc_depthwise {
    const void *in; /* staged, the first place's position; a tap reads at its offset from the place's own */
    ptrdiff_t in_pitch;
    const ptrdiff_t *offsets;
    ptrdiff_t slices, width;
    /* or, where they lie: column 0 of each row from the first place's first tap's on, its first tap's column, and how many
     * columns there are; the others count as zeros, whatever is there */
    const void *const *lines;
    ptrdiff_t origin, size;
    ptrdiff_t rows, columns;
    fc_ahead ahead[2]; /* bytes for each row */
    void *
        out; /* written in whole vectors up to out_end, what is spoilt thereby later; weight gradient: dy, read in whole vectors */
    ptrdiff_t out_pitch;
    const void *out_end;
    const void *weight; /* as the taps */
    const void *bias;   /* one, or NULL */
    bool relu;
    void *sums; /* weight gradient: a vector for each tap, added to; where rows lie, one more for dy itself */
} fc_depthwise;

/* A plane of dx from one of dy: windows of 3x3 or 5x5 at stride 2, of one channel. */
typedef struct fc_depthwise_spread {
    const void *dy, *weight; /* weight: [size][size] */
    void *dx;
    const void *dy_end;            /* nothing is read from here on, */
    const void *dx_end;            /* nor written from here on; what is spoilt before it is written later */
    ptrdiff_t rows[2], columns[2]; /* of dy, of dx */
    ptrdiff_t pad[2];              /* before the rows, before the columns */
    void *room;                    /* FC_SPREAD_ROOM elements, zeros at first */
    bool streamed;                 /* dx goes past the caches, where rows are whole lines */
} fc_depthwise_spread;
/* Rows of dy between zeros: of zeros alone, and copies; and a row of dx and what is written beyond it. */
enum { FC_SPREAD_COPIES = 5 };
#define FC_SPREAD_PITCH(columns, lanes) (fc_round_up(columns, lanes) + 4 * (lanes))
#define FC_SPREAD_ROOM(columns, dx_columns, lanes)                                                                     \
    (FC_SPREAD_COPIES * FC_SPREAD_PITCH(columns, lanes) + fc_round_up(dx_columns, 2 * (lanes)))

/* Planes that follow one another; windows of 3x3 or 5x5, of which at most half lie before or beyond a plane. What is read and written is whole
 * vectors: beyond a row, the last plane's too, and before the first plane by its padding. */
typedef struct fc_depthwise_planes {
    const void *in;
    void *out; /* weight gradient: dy, read */
    ptrdiff_t planes, in_rows, in_columns, rows, columns;
    ptrdiff_t pad[2];     /* before rows, before columns */
    const void *ahead[2]; /* what is to be fetched meanwhile, as large as in and, for the weight gradient, dy */
    const void *weight;   /* as the taps, or */
    bool back;            /* turned about */
    const void *bias;     /* one for each plane, or NULL */
    bool relu;
    void *sums; /* weight gradient, 3x3: of each plane, a vector for each tap, and one for dy itself; added to */
} fc_depthwise_planes;

/* Places of a plane whose elements are vectors, of as many channels as they have lanes: taps lie in columns side by side. Pitches and steps
 * count vectors. */
typedef struct fc_depthwise_turned {
    const void *in; /* the first place's first tap */
    ptrdiff_t rows, columns;
    ptrdiff_t in_pitch, tap_pitch; /* from a row of places to the next, and of taps */
    ptrdiff_t height;              /* rows of taps */
    const void *weight;            /* [height][width] */
    const void *bias;              /* a vector, or NULL */
    bool relu;
    void *out; /* weight gradient: dy, read */
    ptrdiff_t out_pitch, out_step;
    void *sums; /* weight gradient: [height][width], and one more for dy itself; added to */
} fc_depthwise_turned;
enum { FC_TURNED_WIDTHS = 8 };

/* Pixels of one row, channels last: at least a vector of channels. */
typedef struct fc_depthwise_pixels {
    int count;             /* 7, 4, 2 or 1 */
    ptrdiff_t lines;       /* of the window, each of 1, 3, 5 or 7 taps */
    const void *const *in; /* [lines][step * (count - 1) + width] */
    void *const *out;      /* [count]: written, or dy read */
    fc_ahead ahead[2];     /* bytes for each vector of channels */
    ptrdiff_t channels;
    const void *weight; /* [lines][width][channels] */
    const void *bias;   /* [channels], or NULL */
    bool relu;
    void *
        sums; /* weight gradient: [lines][width][channels rounded up to vectors], added to; the last vector is that of the last channels */
} fc_depthwise_pixels;

/* ---- local (kernels/local.inc) ----------------------------------------------------------------------------- */

/* out[i * row_step + j * patch_step] = bias[i] + sum over d of rows[i * depth + d] * patches[j * pitch + d] */
typedef struct fc_dots {
    const void *rows;
    ptrdiff_t row_count;
    const void *patches;
    ptrdiff_t pitch, patch_count, depth;
    const void *bias; /* or NULL */
    void *out;
    ptrdiff_t row_step, patch_step;
} fc_dots;

/* out[d] = or += sum over i of coefficients[i * step] * rows[i * pitch + d], d < length */
typedef struct fc_combine {
    const void *coefficients;
    ptrdiff_t step;
    const void *rows;
    ptrdiff_t pitch, count;
    void *out;
    ptrdiff_t length;
    bool accumulate;
} fc_combine;

/* ---- tables: one per instruction set, filled by isa_<name>.c --------------------------------------------- */

typedef struct fc_kernels {     /* one real type on one instruction set */
    ptrdiff_t lanes;            /* elements of a vector */
    ptrdiff_t rows[FC_WIDTHS];  /* most rows of a tile */
    ptrdiff_t width[FC_WIDTHS]; /* its columns, a multiple of lanes */
    /* [.][rows - 1]; FC_WIDE serves few rows, where a narrow tile would wait for its own sums */
    fc_tile_kernel *const *tile_rows[FC_WIDTHS];     /* A by rows, B packed   */
    fc_tile_kernel *const *tile_indirect[FC_WIDTHS]; /* A by rows, B indirect */
    fc_tiles_kernel *const *tiles_beside[FC_WIDTHS]; /* A panel,   B indirect; none wide */
    fc_tile_kernel *const *tile_panel[FC_WIDTHS];    /* A panel,   B packed; none wide */
    fc_tile_kernel *const *tile_kept[2];             /* B kept, narrow; A by rows, as a panel */
    /* to[j * to_pitch + i] = from[i * from_pitch + j] for i < rows, j < columns */
    void (*transpose)(const void *from, ptrdiff_t from_pitch, void *to, ptrdiff_t to_pitch, ptrdiff_t rows,
                      ptrdiff_t columns);
    /* to[i] = from[i * step], i < n */
    void (*gather)(const void *from, ptrdiff_t step, void *to, ptrdiff_t n);
    void (*zero)(void *to, ptrdiff_t n);
    void (*copy)(const void *from, void *to, ptrdiff_t n);
    void (*copy_past)(const void *from, void *to, ptrdiff_t n); /* past the caches, as far as its lines are whole */
    /* to[k * width + i] = from[offsets[k] + i], k < depth, i < width, a multiple of lanes */
    void (*copy_rows)(const void *from, const ptrdiff_t *offsets, ptrdiff_t depth, ptrdiff_t width, void *to);
    /* to[t * pitch + i] = from[t * width + i], t < count, i < width; what lies at `ahead` is fetched meanwhile */
    void (*copy_columns)(const void *from, const void *ahead, ptrdiff_t count, ptrdiff_t width, void *to,
                         ptrdiff_t pitch);
    void (*copy_runs)(const fc_run *runs, ptrdiff_t count, const void *from, void *to);
    void (*fence)(void); /* stands before anybody else may read what went past the caches */
    void (*sum)(const void *from, ptrdiff_t n, void *sum);
    void (*add)(const void *from, void *to, ptrdiff_t n); /* to[i] += from[i] */
    /* [layout] */
    fc_pool_kernel *max_pool[2], *avg_pool[2], *avg_pool_backward[2];
    fc_scatter_kernel *max_pool_backward[2];
    fc_map_kernel *activate[FC_ACTIVATIONS], *activate_backward[FC_ACTIVATIONS];
    fc_map_kernel *relu_streamed[2]; /* forward, backward, for results of FC_STREAMED bytes and more */
    /* [0]: one vector, its elements side by side (step 1, count 1); [1]: vectors side by side */
    fc_softmax_kernel *softmax[2], *softmax_backward[2], *cross_entropy[2];
    void (*sgd)(const fc_sgd_step *step, void *value, const void *grad, void *velocity, ptrdiff_t n);
    /* kernels/winograd.inc says what these do; vectors of channels lie whole */
    void (*planes_in)(const void *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t n, bool over, void *to,
                      const ptrdiff_t *offsets);
    void (*nines_in)(const void *from, ptrdiff_t step, ptrdiff_t count, void *to);
    void (*nines_apart)(const void *from, ptrdiff_t n, void *to, ptrdiff_t pitch, bool past);
    void (*planes_out)(const void *from, ptrdiff_t n, void *to, ptrdiff_t pitch, ptrdiff_t rows);
    void (*pixels_in)(const void *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t n, void *to);
    void (*pixels_out)(const void *from, ptrdiff_t n, void *to, ptrdiff_t pitch, ptrdiff_t rows);
    fc_winograd_in *winograd_input[2], *winograd_spread[2]; /* [past the caches, where the kernel can] */
    void (*winograd_output)(const void *from, const ptrdiff_t *table, const ptrdiff_t *slots,
                            const fc_winograd_size *size, const fc_winograd_out *out);
    void (*winograd_filter)(const fc_winograd_filter *filter);
    void (*winograd_taps)(const void *from, ptrdiff_t pitch, ptrdiff_t step, const fc_winograd_size *size,
                          ptrdiff_t count, void *to);
    void (*winograd_outer[2])(const fc_winograd_outer *outer); /* [vectors - 1] */
    fc_winograd_tile_kernel *const *winograd_tile[2];          /* [vectors - 1][rows - 1], rows up to rows[FC_NARROW] */
    fc_winograd_tile_kernel *const *winograd_tile_half;   /* of two vectors of u and m, the one that they begin with */
    fc_winograd_tile_kernel *const *winograd_tile_phased; /* of two vectors: void phases are left out */
    /* kernels/winograd_lines.inc says what these do */
    ptrdiff_t line_filters, line_sum_filters; /* most of them at once */
    void (*winograd_lines_input)(const void *const *rows, ptrdiff_t before, ptrdiff_t count, ptrdiff_t after, int taps,
                                 int points, void *to, ptrdiff_t pitch);
    void (*winograd_lines_filter)(const fc_winograd_lines_filter *filter);
    void (*winograd_lines)(const fc_winograd_lines *lines);
    void (*winograd_lines_spread)(const void *const *rows, ptrdiff_t columns, int taps, int points, void *to,
                                  ptrdiff_t pitch);
    void (*winograd_lines_sum)(const fc_winograd_lines_sum *lines);
    void (*winograd_lines_taps)(const void *sums, ptrdiff_t filters, ptrdiff_t channels, int taps, ptrdiff_t across,
                                int points, void *to);
    /* nothing is read from from_end on; each row may be followed by less than a vector of zeros */
    void (*place)(const fc_patch *patch, const void *from, const void *from_end, void *to);
    /* to[2 i] = even[i], to[2 i + 1] = odd[i], n elements in all */
    void (*interleave)(const void *even, const void *odd, void *to, ptrdiff_t n);
    /* to[t * pitch + i] = from[i * step + t], t < step, i < n; and back */
    void (*split)(const void *from, ptrdiff_t step, void *to, ptrdiff_t pitch, ptrdiff_t n);
    void (*join)(const void *from, ptrdiff_t pitch, ptrdiff_t step, void *to, ptrdiff_t n);
    /* add vectors of sums, or single ones, to double ones, and clear them */
    void (*fold)(void *sums, ptrdiff_t vectors, double *totals);
    void (*drain)(void *sums, ptrdiff_t count, double *totals);
    void (*depthwise[FC_WINDOWS])(const fc_depthwise *);
    void (*depthwise_sum[FC_WINDOWS])(const fc_depthwise *);
    void (*depthwise_lines[2][2])(const fc_depthwise *);          /* 3x3 and 5x5, [step - 1] */
    void (*depthwise_lines_sum[2])(const fc_depthwise *);         /* 3x3, [step - 1] */
    void (*depthwise_planes[2][2])(const fc_depthwise_planes *);  /* 3x3 and 5x5, [step - 1] */
    void (*depthwise_planes_sum[2])(const fc_depthwise_planes *); /* 3x3, [step - 1] */
    void (*depthwise_spread[2])(const fc_depthwise_spread *);     /* 3x3 and 5x5 */
    void (*depthwise_turned[FC_TURNED_WIDTHS][2])(
        const fc_depthwise_turned *);                                /* [width][step of columns - 1], or NULL */
    void (*depthwise_turned_sum[2][2])(const fc_depthwise_turned *); /* 3x3 and 5x5, [step of columns - 1] */
    void (*pixels[FC_WINDOWS])(const fc_depthwise_pixels *);
    void (*pixels_sum[FC_WINDOWS])(const fc_depthwise_pixels *);
    void (*dots)(const fc_dots *);
    void (*combine)(const fc_combine *);
    /* [0]: runs of one channel; [1]: rows of channels; [2]: a run each of neighbouring channels */
    fc_norm_kernel *norm_moments[3], *norm_apply[3], *norm_products[3], *norm_gradient[3]; /* of runs, rows, planes */
    void (*plane_means)(const void *x, ptrdiff_t planes, ptrdiff_t n, void *y);
    void (*plane_fill)(const void *dy, ptrdiff_t planes, ptrdiff_t n, void *dx);
    fc_lrn_kernel *lrn[2], *lrn_backward[2]; /* [layout] */
    fc_parameter_kernel *map[FC_MAPS];
    void (*prelu_row)(const void *a, const void *b, const void *weight, void *out, ptrdiff_t n);
    fc_draw_kernel *dropout, *rrelu;
    fc_softmax_kernel *log_softmax[2], *log_softmax_backward[2], *hinge[2]; /* as softmax */
    double (*squared_error)(const void *a, const void *b, void *squares, void *slopes, ptrdiff_t n, double scale);
    fc_scatter_kernel *unpool[2], *unpool_backward[2]; /* [layout], in units of max_pool_backward */
    fc_pool_kernel *stochastic_pool[2];                /* [layout] */
} fc_kernels;

typedef void fc_convert_kernel(const void *from, void *to, ptrdiff_t n);

typedef struct fc_isa_table {
    const char *name;
    const fc_kernels *kernels[2];            /* by fc_dtype */
    fc_convert_kernel *widen[2], *narrow[2]; /* by fc_storage */
    fc_map_kernel *relu_stored[2], *relu_backward_stored[2];
} fc_isa_table;

extern const fc_isa_table fc_isa_generic, fc_isa_avx2, fc_isa_avx512, fc_isa_neon;
const fc_isa_table *fc_isa_current(void); /* isa.c */
static inline const fc_kernels *fc_kernels_of(fc_dtype dtype) { return fc_isa_current()->kernels[dtype]; }

#endif

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
#define FC_UNROLL _Pragma("unroll")
#else
#define FC_UNROLL _Pragma("GCC unroll 16")
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
static inline size_t fc_size_of(fc_dtype dtype) { return dtype == FC_FLOAT32 ? 4 : 8; }

/* ---- threads (thread.c) --------------------------------------------------------------------------------- */

/* Calls task(context, i, worker) for i = 0 .. tasks-1, each once, on up to `threads` workers (0 <= worker < threads), in
 * no promised order. Tasks must not depend on which worker runs them: that is what keeps results bitwise the same. */
typedef void fc_task(void *context, ptrdiff_t index, int worker);
void fc_parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context);

/* ---- the matrix micro-kernel (kernels/product.inc) -------------------------------------------------------- */

/* One register tile: C (rows x width) = or += A (rows x depth) B (depth x width), then bias and ReLU.
 * A is held by rows, element (i, k) at a[i * FC_LDA + k], or as a panel, at a[k * rows + i].
 * B is packed, row k at b[k * width], or indirect, row k at b[offsets[k]] (no alignment needed in either). */
#define FC_DEPTH 256            /* most that one tile reduces over */
#define FC_LDA (FC_DEPTH + 16)  /* not a power of two: rows must not share cache sets */

typedef struct fc_tile {
    const void *a, *b;
    const ptrdiff_t *offsets;
    ptrdiff_t depth;
    void *c; /* row i at c[i * ldc] */
    ptrdiff_t ldc;
    const void *row_bias, *column_bias; /* (rows), (width), or NULL */
    bool accumulate;                    /* add to what C holds */
    bool relu;
} fc_tile;

typedef void fc_tile_kernel(const fc_tile *tile);

/* A stretch of elements to be copied. */
typedef struct fc_run {
    ptrdiff_t from, to, length;
} fc_run;

#define FC_SLACK 64 /* elements that a kernel may read or write past the end of a workspace array */

#define FC_MAX_ROWS 16 /* bounds every table's rows */
enum { FC_NARROW, FC_WIDE, FC_WIDTHS };

/* ---- Winograd (kernels/winograd.inc) ---------------------------------------------------------------------- */

/* Along an axis the points are 0, infinity, and pairs; a tile of 2 pairs outputs uses the first 2 pairs + 2 of them. Points that
 * the same tiles use are a class. */
#define FC_WINOGRAD_SIDE 8
#define FC_WINOGRAD_CLASSES 3
static inline int fc_winograd_class(int point) { return point < 4 ? 0 : point / 2 - 1; }

/* A tile's output: from to, a row every `pitch`, a pixel every vector. */
typedef struct fc_winograd_out {
    void *to;
    ptrdiff_t pitch, rows, columns; /* those beyond are computed but not written */
    const void *bias;               /* one vector */
    bool relu;
} fc_winograd_out;

typedef struct fc_winograd_tile {
    const void *v, *u;
    void *m;
    ptrdiff_t pitch, depth; /* of v from one vector of channels to the next; channels */
    bool accumulate;
} fc_winograd_tile;

typedef void fc_winograd_tile_kernel(const fc_winograd_tile *tile);

typedef struct fc_winograd_outer {
    const void *x, *dy; /* [tile][lanes], and so for each vector of filters, dy_pitch apart */
    ptrdiff_t dy_pitch, tiles;
    void *s; /* [channel][filter], channels `pitch` apart */
    ptrdiff_t pitch;
    bool accumulate;
} fc_winograd_outer;

/* A transform of a tile, spatial to points: x or dy. */
typedef void fc_winograd_in(const void *from, ptrdiff_t pitch, int down, int across, void *to, const ptrdiff_t *table, const ptrdiff_t *slots);

/* ---- tables: one per instruction set, filled by isa_<name>.c --------------------------------------------- */

typedef struct fc_kernels { /* one real type on one instruction set */
    ptrdiff_t lanes;                          /* elements of a vector */
    ptrdiff_t rows[FC_WIDTHS];                /* most rows of a tile */
    ptrdiff_t width[FC_WIDTHS];               /* its columns, a multiple of lanes */
    /* [.][rows - 1]; FC_WIDE serves few rows, where a narrow tile would wait for its own sums */
    fc_tile_kernel *const *tile_rows[FC_WIDTHS];     /* A by rows, B packed   */
    fc_tile_kernel *const *tile_indirect[FC_WIDTHS]; /* A by rows, B indirect */
    fc_tile_kernel *const *tile_panel;               /* A panel,   B packed, narrow */
    /* to[j * to_pitch + i] = from[i * from_pitch + j] for i < rows, j < columns */
    void (*transpose)(const void *from, ptrdiff_t from_pitch, void *to, ptrdiff_t to_pitch, ptrdiff_t rows,
                      ptrdiff_t columns);
    /* to[i] = from[i * step], i < n */
    void (*gather)(const void *from, ptrdiff_t step, void *to, ptrdiff_t n);
    void (*zero)(void *to, ptrdiff_t n);
    void (*copy)(const void *from, void *to, ptrdiff_t n);
    void (*copy_runs)(const fc_run *runs, ptrdiff_t count, const void *from, void *to);
    void (*sum)(const void *from, ptrdiff_t n, void *sum);
    void (*add)(const void *from, void *to, ptrdiff_t n); /* to[i] += from[i] */
    /* kernels/winograd.inc says what these do; vectors of channels lie whole, `down` and `across` are pairs of points */
    void (*planes_in)(const void *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t n, bool over, void *to, const ptrdiff_t *offsets);
    void (*planes_out)(const void *from, ptrdiff_t n, void *to, ptrdiff_t pitch, ptrdiff_t rows);
    void (*pixels_in)(const void *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t n, void *to);
    void (*pixels_out)(const void *from, ptrdiff_t n, void *to, ptrdiff_t pitch, ptrdiff_t rows);
    fc_winograd_in *winograd_input, *winograd_spread;
    void (*winograd_output)(const void *from, const ptrdiff_t *table, const ptrdiff_t *slots, int down, int across, const fc_winograd_out *out);
    void (*winograd_filter)(const void *taps, bool turned, int down, int across, ptrdiff_t count, void *to, ptrdiff_t pitch, ptrdiff_t step);
    void (*winograd_taps)(const void *from, ptrdiff_t pitch, ptrdiff_t step, int down, int across, ptrdiff_t count, void *taps);
    void (*winograd_outer[2])(const fc_winograd_outer *outer); /* [vectors - 1] */
    fc_winograd_tile_kernel *const *winograd_tile[2]; /* [vectors - 1][rows - 1], rows up to rows[FC_NARROW] */
} fc_kernels;

typedef struct fc_isa_table {
    const char *name;
    const fc_kernels *kernels[2]; /* by fc_dtype */
} fc_isa_table;

extern const fc_isa_table fc_isa_generic, fc_isa_avx2, fc_isa_avx512, fc_isa_neon;
const fc_isa_table *fc_isa_current(void); /* isa.c */

#endif

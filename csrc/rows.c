/* rows.c -- copies and adds up arrays that are dense but for the distance of their rows: what joins branches. */
#include "core.h"

#define TASK ((ptrdiff_t)64 << 10) /* bytes that are worth a task */

typedef struct rows_call {
    fc_parameter_kernel *mix; /* NULL: copy */
    const char *from;
    char *to;
    ptrdiff_t from_stride, to_stride, rows, bytes; /* bytes of a row */
    ptrdiff_t size;                                /* of an element, where they are added */
    ptrdiff_t pieces, together;                    /* pieces to a row, or rows to a task */
} rows_call;

static void rows_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const rows_call *c = context;
    const ptrdiff_t start = index % c->pieces * TASK,
                    length = c->pieces > 1 ? fc_min(TASK, c->bytes - start) : c->bytes;
    const ptrdiff_t first = index / c->pieces * c->together;
    for (ptrdiff_t row = first; row < fc_min(c->rows, first + c->together); row++) {
        const char *from = c->from + row * c->from_stride + start;
        char *to = c->to + row * c->to_stride + start;
        if (c->mix == NULL)
            memcpy(to, from, (size_t)length);
        else
            c->mix(to, from, to, length / c->size, (const double[2]){1, 1});
    }
}

static fc_status run(rows_call *c, int threads)
{
    ptrdiff_t all;
    if (c->rows < 0 || c->bytes < 0 || __builtin_mul_overflow(c->rows, c->bytes, &all))
        return FC_INVALID;
    if (all == 0)
        return FC_OK;
    c->pieces = c->bytes >= 2 * TASK ? fc_ceil_div(c->bytes, TASK) : 1;
    c->together = c->bytes < TASK ? TASK / c->bytes : 1;
    fc_parallel(threads, fc_ceil_div(c->rows, c->together) * c->pieces, rows_task, c);
    return FC_OK;
}

fc_status fc_copy_rows(const void *from, ptrdiff_t from_stride, void *to, ptrdiff_t to_stride, ptrdiff_t rows,
                       ptrdiff_t bytes, int threads)
{
    rows_call c = {
        .from = from, .from_stride = from_stride, .to = to, .to_stride = to_stride, .rows = rows, .bytes = bytes};
    return run(&c, threads);
}

fc_status fc_add_rows(fc_dtype dtype, const void *from, ptrdiff_t from_stride, void *to, ptrdiff_t to_stride,
                      ptrdiff_t rows, ptrdiff_t bytes, int threads)
{
    rows_call c = {.from = from,
                   .from_stride = from_stride,
                   .to = to,
                   .to_stride = to_stride,
                   .rows = rows,
                   .bytes = bytes,
                   .size = (ptrdiff_t)fc_size_of(dtype),
                   .mix = fc_kernels_of(dtype)->map[FC_MIX]};
    return run(&c, threads);
}

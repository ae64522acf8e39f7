/* storage.c -- splits conversions between 16 bits and floats into tasks. */
#include "core.h"

#define TASK 32768 /* elements that are worth a task */

typedef struct convert_call {
    fc_convert_kernel *kernel;
    const char *from;
    char *to;
    ptrdiff_t n;
    size_t from_size, to_size; /* of an element */
} convert_call;

static void convert_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const convert_call *c = context;
    const size_t first = (size_t)index * TASK;
    c->kernel(c->from + first * c->from_size, c->to + first * c->to_size, fc_min(TASK, c->n - index * TASK));
}

static fc_status convert(convert_call call, int threads)
{
    if (call.n < 0 || call.n > FC_LARGEST)
        return FC_INVALID;
    fc_parallel_alike(threads, fc_ceil_div(call.n, TASK), convert_task, &call);
    return FC_OK;
}

fc_status fc_widen(fc_storage kind, const void *from, float *to, ptrdiff_t n, int threads)
{
    return convert((convert_call){fc_isa_current()->widen[kind], from, (char *)to, n, 2, sizeof(float)}, threads);
}

fc_status fc_narrow(fc_storage kind, const float *from, void *to, ptrdiff_t n, int threads)
{
    return convert((convert_call){fc_isa_current()->narrow[kind], (const char *)from, to, n, sizeof(float), 2},
                   threads);
}

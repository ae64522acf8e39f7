/* dilated.c -- a dilated convolution of stride 1 as plain ones: outputs `dilation` apart read inputs as far apart.
 *
 * Each residue of the output coordinate modulo the dilation is an image of its own, and so is what it reads (TensorFlow's
 * space_to_batch; Yu and Koltun 2016, section 3, for what dilation is). The parts are copied, convolved as one batch, and
 * put back. Nothing is computed twice, but parts of unequal length are padded to the longest. */
#include "conv.h"

#include <math.h>

/* One axis of one array, cut up: element i of part a is element a + i * step - shift of the array, if it has that. */
typedef struct cut {
    ptrdiff_t size, step, shift;
    ptrdiff_t parts, length;
} cut;

typedef struct cuts {
    cut x[2], y[2]; /* height, width */
} cuts;

static cuts cuts_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    cuts c;
    for (int a = 0; a < 2; a++) {
        const ptrdiff_t step = p->dilation[1 + a], parts = fc_min(step, plan->output[1 + a]),
                        length = fc_ceil_div(plan->output[1 + a], step);
        c.y[a] = (cut){.size = plan->output[1 + a], .step = step, .parts = parts, .length = length};
        c.x[a] = (cut){.size = p->input[1 + a], .step = step, .parts = parts};
        /* whole steps of padding are the parts' own padding; any other is copied */
        if (p->pad_before[1 + a] % step == 0) {
            c.x[a].length = fc_ceil_div(p->input[1 + a], step);
        } else {
            c.x[a].length = length + p->kernel[1 + a] - 1;
            c.x[a].shift = p->pad_before[1 + a];
        }
    }
    return c;
}

bool fc_is_dilated(const fc_conv_plan *plan) { return plan->problem.dilation[1] > 1 || plan->problem.dilation[2] > 1; }

/* Bytes of the parts of so many images; false if they are too many to count. */
static bool bytes_of(const fc_conv_plan *plan, const cuts *c, ptrdiff_t images, size_t *x, size_t *y)
{
    const fc_conv_problem *p = &plan->problem;
    ptrdiff_t n[2] = {images, images};
    bool fits = fc_multiply(&n[0], p->in_channels) && fc_multiply(&n[1], p->out_channels);
    for (int a = 0; a < 2; a++)
        fits = fits && fc_multiply(&n[0], c->x[a].parts) && fc_multiply(&n[0], c->x[a].length) &&
               fc_multiply(&n[1], c->y[a].parts) && fc_multiply(&n[1], c->y[a].length);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype);
    fits = fits && fc_multiply(&n[0], element) && fc_multiply(&n[1], element) && n[0] < PTRDIFF_MAX / 4 &&
           n[1] < PTRDIFF_MAX / 4;
    *x = fits ? (size_t)fc_round_up(n[0], FC_ALIGNMENT) : 0;
    *y = fits ? (size_t)fc_round_up(n[1], FC_ALIGNMENT) : 0;
    return fits;
}

/* Images of one round: all, or one; 0 if there is no room. A weight gradient is a sum over all. */
static ptrdiff_t round_of(const fc_conv_plan *plan, const cuts *c)
{
    size_t x, y;
    const ptrdiff_t batch = plan->problem.batch;
    if (bytes_of(plan, c, batch, &x, &y) && x + y <= plan->limit / 2)
        return batch;
    if (plan->problem.pass != FC_BACKWARD_WEIGHT && bytes_of(plan, c, 1, &x, &y) && x + y <= plan->limit / 2)
        return 1;
    return 0;
}

const char *fc_dilated_decline(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->stride[1] != 1 || p->stride[2] != 1)
        return "its tiles need a stride or a dilation of 1";
    const cuts c = cuts_of(plan);
    return round_of(plan, &c) ? NULL : "the parts of a dilated image are larger than its workspace may be";
}

fc_conv_plan fc_dilated_plan(const fc_conv_plan *plan)
{
    const cuts c = cuts_of(plan);
    fc_conv_plan inner = *plan;
    inner.limit = plan->limit / 2;
    inner.problem.batch = round_of(plan, &c) * c.y[0].parts * c.y[1].parts;
    for (int a = 0; a < 2; a++) {
        const ptrdiff_t pad = c.x[a].shift ? 0 : plan->problem.pad_before[1 + a] / c.x[a].step;
        inner.problem.dilation[1 + a] = 1;
        inner.problem.input[1 + a] = c.x[a].length;
        inner.problem.pad_before[1 + a] = pad;
        inner.problem.pad_after[1 + a] = c.y[a].length - c.x[a].length - pad + plan->problem.kernel[1 + a] - 1;
        inner.output[1 + a] = c.y[a].length;
    }
    return inner;
}

ptrdiff_t fc_dilated_rounds(const fc_conv_plan *plan)
{
    const cuts c = cuts_of(plan);
    return plan->problem.batch / round_of(plan, &c);
}

enum { ELEMENT_CYCLES = 4, ROW_CYCLES = 25, WEIGHT_ROW_CYCLES = 75 };

double fc_dilated_cost(const fc_conv_plan *plan)
{
    const cuts c = cuts_of(plan);
    size_t x, y;
    if (!bytes_of(plan, &c, 1, &x, &y))
        return HUGE_VAL;
    /* Cycles of an element, and of a row, here and where short ones are read again: fitted so that the choice was right on
     * five shapes, dilations of 2 to 12. A weight gradient reads both arrays. */
    const double elements = (double)(x + y) / (double)fc_size_of(plan->problem.dtype),
                 rows = elements / (double)c.y[1].length,
                 row = plan->problem.pass == FC_BACKWARD_WEIGHT ? WEIGHT_ROW_CYCLES : ROW_CYCLES;
    return (ELEMENT_CYCLES * elements + row * rows) * (double)plan->problem.batch / FC_NOMINAL_HERTZ;
}

size_t fc_dilated_workspace(const fc_conv_plan *plan)
{
    const cuts c = cuts_of(plan);
    size_t x, y;
    return bytes_of(plan, &c, round_of(plan, &c), &x, &y) ? x + y : 0;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

typedef struct copy {
    const fc_kernels *kernels;
    cut across[2];
    ptrdiff_t inner; /* planes of an image: its channels or, channels last, one */
    ptrdiff_t unit;  /* bytes of what moves as one: an element or, channels last, a pixel */
    bool scalar;     /* it is an element */
    bool past;       /* parts are written past the caches: other threads read them next */
    char *array, *parts;
} copy;

static char *part_row(const copy *c, ptrdiff_t plane, ptrdiff_t a, ptrdiff_t b, ptrdiff_t i)
{
    const cut *h = &c->across[0], *w = &c->across[1];
    const ptrdiff_t image = plane / c->inner, channel = plane % c->inner;
    return c->parts +
           ((((image * h->parts + a) * w->parts + b) * c->inner + channel) * h->length + i) * w->length * c->unit;
}

/* Row i of a part. */
static void split_row(const copy *c, ptrdiff_t plane, ptrdiff_t a, ptrdiff_t b, ptrdiff_t i, char *to)
{
    const cut *h = &c->across[0], *w = &c->across[1];
    const ptrdiff_t at = a + i * h->step - h->shift;
    if (at < 0 || at >= h->size) {
        memset(to, 0, (size_t)(w->length * c->unit));
        return;
    }
    const char *row = c->array + (plane * h->size + at) * w->size * c->unit;
    if (c->scalar) {
        fc_stage_row(c->kernels, c->unit, row, b - w->shift, w->step, w->size, to, w->length);
        return;
    }
    for (ptrdiff_t j = 0; j < w->length; j++, to += c->unit) {
        const ptrdiff_t from = b + j * w->step - w->shift;
        if (from < 0 || from >= w->size)
            memset(to, 0, (size_t)c->unit);
        else
            memcpy(to, row + from * c->unit, (size_t)c->unit);
    }
}

static void split_plane(void *context, ptrdiff_t plane, int worker)
{
    (void)worker;
    const copy *c = context;
    const cut *h = &c->across[0], *w = &c->across[1];
    _Alignas(FC_ALIGNMENT) char room[8 << 10]; /* a part is put together in, if it fits */
    const ptrdiff_t row = w->length * c->unit;
    const bool past = c->past && c->scalar && h->length <= (ptrdiff_t)sizeof room / row;
    for (ptrdiff_t a = 0; a < h->parts; a++)
        if (past)
            for (ptrdiff_t b = 0; b < w->parts; b++) {
                for (ptrdiff_t i = 0; i < h->length; i++)
                    split_row(c, plane, a, b, i, room + i * row);
                c->kernels->copy_past(room, part_row(c, plane, a, b, 0), h->length * w->length);
            }
        else
            for (ptrdiff_t i = 0; i < h->length; i++)
                for (ptrdiff_t b = 0; b < w->parts; b++)
                    split_row(c, plane, a, b, i, part_row(c, plane, a, b, i));
}

/* What no part holds is zero: the gradient of what no output reads. */
static void join_plane(void *context, ptrdiff_t plane, int worker)
{
    (void)worker;
    const copy *c = context;
    const cut *h = &c->across[0], *w = &c->across[1];
    for (ptrdiff_t at = 0; at < h->size; at++) {
        const ptrdiff_t a = (at + h->shift) % h->step, i = (at + h->shift) / h->step;
        char *row = c->array + (plane * h->size + at) * w->size * c->unit;
        if (a >= h->parts || i >= h->length || w->parts < w->step)
            memset(row, 0, (size_t)(w->size * c->unit));
        for (ptrdiff_t b = 0; a < h->parts && i < h->length && b < w->parts; b++) {
            const ptrdiff_t first = b < w->shift ? fc_ceil_div(w->shift - b, w->step) : 0,
                            start = b + first * w->step - w->shift;
            const char *from = part_row(c, plane, a, b, i) + first * c->unit;
            const ptrdiff_t n = start < w->size ? fc_min(w->length - first, (w->size - start - 1) / w->step + 1) : 0;
            if (c->scalar && c->unit == 4)
                for (ptrdiff_t j = 0; j < n; j++)
                    ((float *)row)[start + j * w->step] = ((const float *)from)[j];
            else if (c->scalar)
                for (ptrdiff_t j = 0; j < n; j++)
                    ((double *)row)[start + j * w->step] = ((const double *)from)[j];
            else
                for (ptrdiff_t j = 0; j < n; j++)
                    memcpy(row + (start + j * w->step) * c->unit, from + j * c->unit, (size_t)c->unit);
        }
    }
}

void fc_dilated_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const cuts c = cuts_of(plan);
    const fc_conv_plan inner = fc_dilated_plan(plan);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), images = round_of(plan, &c);
    const bool last = p->layout == FC_CHANNELS_LAST;
    size_t x_bytes, y_bytes;
    (void)bytes_of(plan, &c, images, &x_bytes, &y_bytes); /* they fit, or the plan would have been declined */
    copy x = {.kernels = plan->kernels,
              .inner = last ? 1 : p->in_channels,
              .scalar = !last,
              .past = fc_threads_apart(threads)},
         y = x;
    y.inner = last ? 1 : p->out_channels;
    x.unit = (last ? p->in_channels : 1) * element;
    y.unit = (last ? p->out_channels : 1) * element;
    memcpy(x.across, c.x, sizeof c.x);
    memcpy(y.across, c.y, sizeof c.y);
    x.parts = space;
    y.parts = space + x_bytes;
    fc_conv_arrays of_parts = *arrays;
    of_parts.x = x.parts;
    of_parts.y = y.parts;
    for (ptrdiff_t n = 0; n < p->batch; n += images) {
        x.array = (char *)arrays->x + n * x.inner * x.unit * p->input[1] * p->input[2];
        y.array = (char *)arrays->y + n * y.inner * y.unit * plan->output[1] * plan->output[2];
        if (p->pass != FC_BACKWARD_INPUT)
            fc_parallel(threads, images * x.inner, split_plane, &x);
        if (p->pass != FC_FORWARD)
            fc_parallel(threads, images * y.inner, split_plane, &y);
        plan->algorithm->run(&inner, &of_parts, y.parts + y_bytes, threads);
        if (p->pass == FC_BACKWARD_INPUT)
            fc_parallel(threads, images * x.inner, join_plane, &x);
        if (p->pass == FC_FORWARD)
            fc_parallel(threads, images * y.inner, join_plane, &y);
    }
}

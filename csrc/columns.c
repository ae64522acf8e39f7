/* columns.c -- the image matrix: what each window sees, one after the other; and its transpose, which adds it up. */
#include "core.h"

#define TASK 32768 /* elements that are worth a task */
#define SHORT 16   /* elements that are not worth a call */

/* The places first .. last-1 whose tap t lies in the input, and the input coordinate of the first. */
typedef struct span {
    ptrdiff_t first, last, at;
} span;

enum { SPANS = 16 };

typedef struct columns_call {
    const fc_pool_problem *problem;
    const fc_kernels *kernels;
    char *x, *columns;
    ptrdiff_t element, taps, places, units, chunk;
    span spans[SPANS]; /* of the first taps along a row */
} columns_call;

ptrdiff_t fc_columns_elements(const fc_pool_problem *p)
{
    ptrdiff_t n = fc_pool_elements(p, 1);
    for (int a = 0; a < 3 && n >= 0; a++)
        if (p->input[a] < 1 || p->output[a] < 1 || __builtin_mul_overflow(n, p->kernel[a], &n) || n > PTRDIFF_MAX / 512)
            n = -1;
    return n;
}

static span span_of(const fc_pool_problem *p, int a, ptrdiff_t t)
{
    const ptrdiff_t start = t * p->dilation[a] - p->pad_before[a], stride = p->stride[a];
    span s;
    s.first = fc_min(p->output[a], start < 0 ? fc_quotient(-start + stride - 1, stride) : 0);
    s.last = start < p->input[a] ? fc_min(p->output[a], fc_quotient(p->input[a] - 1 - start, stride) + 1) : 0;
    s.last = fc_max(s.first, s.last);
    s.at = start + s.first * stride;
    return s;
}

/* The place whose tap t lies at input coordinate i, or -1. */
static ptrdiff_t place_of(const fc_pool_problem *p, int a, ptrdiff_t i, ptrdiff_t t)
{
    const ptrdiff_t o = i + p->pad_before[a] - t * p->dilation[a];
    if (o < 0)
        return -1;
    const ptrdiff_t place = fc_quotient(o, p->stride[a]);
    return place * p->stride[a] != o || place >= p->output[a] ? -1 : place;
}

/* Input coordinate of tap t at place o, or -1 in the padding. */
static ptrdiff_t input_of(const fc_pool_problem *p, int a, ptrdiff_t o, ptrdiff_t t)
{
    const ptrdiff_t i = o * p->stride[a] - p->pad_before[a] + t * p->dilation[a];
    return i < p->input[a] ? fc_max(i, -1) : -1;
}

/* Zeros what lies beside the span: few elements, hence no call. */
static void margins(char *row, span s, ptrdiff_t width, ptrdiff_t e)
{
    const ptrdiff_t count = width - (s.last - s.first);
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t w = i < s.first ? i : i - s.first + s.last;
        if (e == 4)
            ((float *)row)[w] = 0;
        else
            ((double *)row)[w] = 0;
    }
}

/* Channels first, unit (n, c, tap): one row of the matrix, that is all places. */
static void planes_out(const columns_call *call, ptrdiff_t unit)
{
    const fc_pool_problem *p = call->problem;
    const ptrdiff_t e = call->element, *in = p->input, *out = p->output;
    const ptrdiff_t tap = unit % call->taps,
                    t[3] = {tap / (p->kernel[1] * p->kernel[2]), tap / p->kernel[2] % p->kernel[1], tap % p->kernel[2]};
    const char *x = call->x + unit / call->taps * in[0] * in[1] * in[2] * e;
    char *to = call->columns + unit * call->places * e;
    const span s = span_of(p, 2, t[2]);
    if (p->stride[1] == 1 && p->stride[2] == 1 && in[2] == out[2] && s.first < s.last) {
        /* rows follow each other in the same way: one copy, and then the margins that are padding */
        const span rows = span_of(p, 1, t[1]);
        const ptrdiff_t width = out[2];
        for (ptrdiff_t d = 0; d < out[0]; d++, to += out[1] * width * e) {
            const ptrdiff_t from_d = input_of(p, 0, d, t[0]);
            if (from_d < 0 || rows.first == rows.last) {
                call->kernels->zero(to, out[1] * width);
                continue;
            }
            call->kernels->zero(to, rows.first * width);
            call->kernels->copy(x + ((from_d * in[1] + rows.at) * width + s.at) * e,
                                to + (rows.first * width + s.first) * e,
                                (rows.last - rows.first - 1) * width + s.last - s.first);
            for (ptrdiff_t h = rows.first; h < rows.last; h++)
                margins(to + h * width * e, s, width, e);
            call->kernels->zero(to + rows.last * width * e, (out[1] - rows.last) * width);
        }
        return;
    }
    for (ptrdiff_t d = 0; d < out[0]; d++)
        for (ptrdiff_t h = 0; h < out[1]; h++, to += out[2] * e) {
            const ptrdiff_t from_d = input_of(p, 0, d, t[0]), from_h = input_of(p, 1, h, t[1]);
            if (from_d < 0 || from_h < 0 || s.first == s.last) {
                call->kernels->zero(to, out[2]);
                continue;
            }
            const char *from = x + ((from_d * in[1] + from_h) * in[2] + s.at) * e;
            if (s.first)
                call->kernels->zero(to, s.first);
            if (p->stride[2] == 1)
                call->kernels->copy(from, to + s.first * e, s.last - s.first);
            else
                call->kernels->gather(from, p->stride[2], to + s.first * e, s.last - s.first);
            if (s.last < out[2])
                call->kernels->zero(to + s.last * e, out[2] - s.last);
        }
}

/* Channels last, unit (n, d, h): the rows of the matrix that a row of places has, each (taps, channels). */
static void pixels_out(const columns_call *call, ptrdiff_t unit)
{
    const fc_pool_problem *p = call->problem;
    const ptrdiff_t e = call->element, *in = p->input, *out = p->output, *kernel = p->kernel, channels = p->channels;
    const ptrdiff_t h = unit % out[1], d = unit / out[1] % out[0], n = unit / (out[1] * out[0]);
    const char *x = call->x + n * in[0] * in[1] * in[2] * channels * e;
    char *to = call->columns + unit * out[2] * call->taps * channels * e;
    for (ptrdiff_t w = 0; w < out[2]; w++) {
        const ptrdiff_t start = w * p->stride[2] - p->pad_before[2];
        const fc_taps inside = fc_taps_inside(start, kernel[2], p->dilation[2], in[2]);
        for (ptrdiff_t u = 0; u < kernel[0]; u++)
            for (ptrdiff_t v = 0; v < kernel[1]; v++, to += kernel[2] * channels * e) {
                const ptrdiff_t from_d = input_of(p, 0, d, u), from_h = input_of(p, 1, h, v);
                if (from_d < 0 || from_h < 0 || inside.first == inside.last) {
                    call->kernels->zero(to, kernel[2] * channels);
                    continue;
                }
                const char *row = x + ((from_d * in[1] + from_h) * in[2] + start) * channels * e;
                if (inside.first)
                    call->kernels->zero(to, inside.first * channels);
                if (p->dilation[2] == 1)
                    call->kernels->copy(row + inside.first * channels * e, to + inside.first * channels * e,
                                        (inside.last - inside.first) * channels);
                else
                    for (ptrdiff_t t = inside.first; t < inside.last; t++)
                        call->kernels->copy(row + t * p->dilation[2] * channels * e, to + t * channels * e, channels);
                if (inside.last < kernel[2])
                    call->kernels->zero(to + inside.last * channels * e, (kernel[2] - inside.last) * channels);
            }
    }
}

/* Adds what one tap of `count` windows saw to the pixels that they are apart. */
static void add_pixels(const columns_call *call, const char *from, char *to, ptrdiff_t count)
{
    const ptrdiff_t channels = call->problem->channels, e = call->element, from_step = call->taps * channels,
                    to_step = call->problem->stride[2] * channels;
    if (channels >= SHORT)
        for (ptrdiff_t o = 0; o < count; o++)
            call->kernels->add(from + o * from_step * e, to + o * to_step * e, channels);
    else if (e == 4) /* few: no call */
        for (ptrdiff_t o = 0; o < count; o++)
            for (ptrdiff_t c = 0; c < channels; c++)
                ((float *)to)[o * to_step + c] += ((const float *)from)[o * from_step + c];
    else
        for (ptrdiff_t o = 0; o < count; o++)
            for (ptrdiff_t c = 0; c < channels; c++)
                ((double *)to)[o * to_step + c] += ((const double *)from)[o * from_step + c];
}

/* Unit: a row of the image, (n, c, d, h) or (n, d, h), which gathers what the windows that see it have. */
static void row_back(const columns_call *call, ptrdiff_t unit)
{
    const fc_pool_problem *p = call->problem;
    const bool last = p->layout == FC_CHANNELS_LAST;
    const ptrdiff_t e = call->element, *in = p->input, *out = p->output, *kernel = p->kernel,
                    channels = last ? p->channels : 1;
    const ptrdiff_t h = unit % in[1], d = unit / in[1] % in[0], plane = unit / (in[1] * in[0]);
    const char *const columns = call->columns + plane * call->taps * call->places * channels * e;
    char *const x = call->x + unit * in[2] * channels * e;
    call->kernels->zero(x, in[2] * channels);
    for (ptrdiff_t u = 0; u < kernel[0]; u++)
        for (ptrdiff_t v = 0; v < kernel[1]; v++) {
            const ptrdiff_t from_d = place_of(p, 0, d, u), from_h = place_of(p, 1, h, v);
            if (from_d < 0 || from_h < 0)
                continue;
            const ptrdiff_t row = (from_d * out[1] + from_h) * out[2];
            for (ptrdiff_t t = 0; t < kernel[2]; t++) {
                const ptrdiff_t tap = (u * kernel[1] + v) * kernel[2] + t;
                const span s = t < SPANS ? call->spans[t] : span_of(p, 2, t);
                if (last) {
                    const char *from = columns + ((row + s.first) * call->taps + tap) * channels * e;
                    add_pixels(call, from, x + s.at * channels * e, s.last - s.first);
                    continue;
                }
                const char *from = columns + (tap * call->places + row + s.first) * e;
                char *to = x + s.at * e;
                if (p->stride[2] == 1 && s.last - s.first >= SHORT)
                    call->kernels->add(from, to, s.last - s.first);
                else if (e == 4)
                    for (ptrdiff_t o = 0; o < s.last - s.first; o++)
                        ((float *)to)[o * p->stride[2]] += ((const float *)from)[o];
                else
                    for (ptrdiff_t o = 0; o < s.last - s.first; o++)
                        ((double *)to)[o * p->stride[2]] += ((const double *)from)[o];
            }
        }
}

static void out_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const columns_call *call = context;
    for (ptrdiff_t i = index * call->chunk; i < fc_min(call->units, (index + 1) * call->chunk); i++)
        if (call->problem->layout == FC_CHANNELS_FIRST)
            planes_out(call, i);
        else
            pixels_out(call, i);
}

static void back_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const columns_call *call = context;
    for (ptrdiff_t i = index * call->chunk; i < fc_min(call->units, (index + 1) * call->chunk); i++)
        row_back(call, i);
}

static fc_status run(const fc_pool_problem *p, const void *x, const void *columns, bool back, int threads)
{
    const ptrdiff_t elements = fc_columns_elements(p);
    if (elements < 0)
        return FC_INVALID;
    columns_call call = {.problem = p,
                         .kernels = fc_kernels_of(p->dtype),
                         .x = (char *)x,
                         .columns = (char *)columns,
                         .element = (ptrdiff_t)fc_size_of(p->dtype),
                         .taps = p->kernel[0] * p->kernel[1] * p->kernel[2],
                         .places = p->output[0] * p->output[1] * p->output[2]};
    const ptrdiff_t planes = p->layout == FC_CHANNELS_FIRST ? p->batch * p->channels : p->batch;
    if (back)
        call.units = planes * p->input[0] * p->input[1];
    else
        call.units = p->layout == FC_CHANNELS_FIRST ? planes * call.taps : planes * p->output[0] * p->output[1];
    if (call.units == 0 || p->channels == 0)
        return FC_OK;
    for (ptrdiff_t t = 0; t < fc_min(SPANS, p->kernel[2]); t++)
        call.spans[t] = span_of(p, 2, t);
    call.chunk = fc_max(1, TASK / fc_max(1, elements / call.units));
    fc_parallel(threads, fc_ceil_div(call.units, call.chunk), back ? back_task : out_task, &call);
    return FC_OK;
}

fc_status fc_im2col(const fc_pool_problem *problem, const void *x, void *columns, int threads)
{
    return run(problem, x, columns, false, threads);
}

fc_status fc_col2im(const fc_pool_problem *problem, const void *columns, void *x, int threads)
{
    return run(problem, x, columns, true, threads);
}

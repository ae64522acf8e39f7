/* local.c -- locally connected layers: a convolution that has weights of its own at each place.
 *
 * Every weight is used once for each image, so that reading it is what takes the time: a place's weights are read in
 * place, once, for all images of a block. */
#include "core.h"

#define TASK 32768 /* weights that are worth a task */
enum {
    IMAGES = 8,         /* whose patches lie side by side while a place's weights pass */
    CHANNEL_TASKS = 16, /* the input gradient's: each has channels of its own, because places overlap, */
    LEAST_LENGTH = 32   /* and so many weights in a row, lest vectors stay empty */
};

ptrdiff_t fc_local_elements(const fc_conv_problem *p, int array)
{
    if (p->batch < 0 || p->in_channels < 1 || p->out_channels < 1 || p->groups != 1)
        return -1;
    ptrdiff_t x = fc_max(p->batch, 1), y = x, weight = p->in_channels, bias = p->out_channels,
              element = (ptrdiff_t)fc_size_of(p->dtype);
    bool fits =
        fc_multiply(&x, p->in_channels) && fc_multiply(&y, p->out_channels) && fc_multiply(&weight, p->out_channels);
    for (int a = 0; a < 3 && fits; a++) {
        const ptrdiff_t places = fc_conv_output_length(p->input[a], p->kernel[a], p->stride[a], p->dilation[a],
                                                       p->pad_before[a], p->pad_after[a]);
        fits = places > 0 && fc_multiply(&x, p->input[a]) && fc_multiply(&y, places) && fc_multiply(&bias, places) &&
               fc_multiply(&weight, p->kernel[a]) && fc_multiply(&weight, places);
    }
    const ptrdiff_t elements[] = {p->batch ? x : 0, weight, bias, p->batch ? y : 0};
    if (!fits || !fc_multiply(&x, element) || !fc_multiply(&y, element) || !fc_multiply(&weight, element))
        return -1;
    return elements[array];
}

typedef struct local_call {
    const fc_conv_problem *problem;
    const fc_kernels *kernels;
    char *x, *weight, *bias, *y, *workspace;
    ptrdiff_t output[3], places, taps, depth;    /* depth: of a place's sums, channels times taps */
    ptrdiff_t x_image, x_channel, x_step[3];     /* in elements */
    ptrdiff_t y_image, y_channel, y_place;       /* in elements */
    ptrdiff_t chunk, image_blocks, room, images; /* places or channels of a task; workspace bytes of a worker */
    ptrdiff_t element;
} local_call;

/* Where a place's taps start, and which of them lie in the image. */
typedef struct local_taps {
    ptrdiff_t start[3];
    fc_taps inside[3];
} local_taps;

static local_taps taps_of(const local_call *call, ptrdiff_t place)
{
    const fc_conv_problem *p = call->problem;
    local_taps t;
    for (int a = 2; a >= 0; a--) {
        t.start[a] = place % call->output[a] * p->stride[a] - p->pad_before[a];
        t.inside[a] = fc_taps_inside(t.start[a], p->kernel[a], p->dilation[a], p->input[a]);
        place /= call->output[a];
    }
    return t;
}

/* Copies the patch of channels first .. first + count - 1 of an image, (channel, tap), zeros where it is padding; or,
 * `back`, adds the patch to the image. */
static void move_patch(const local_call *call, const local_taps *t, ptrdiff_t image, ptrdiff_t first, ptrdiff_t count,
                       char *patch, bool back)
{
    const fc_conv_problem *p = call->problem;
    const ptrdiff_t width = p->dilation[2] * call->x_step[2];
    char *x = call->x + (image * call->x_image + first * call->x_channel) * call->element;
    if (!back)
        memset(patch, 0, (size_t)(count * call->taps * call->element));
#define MOVE(real)                                                                                                     \
    for (ptrdiff_t c = 0; c < count; c++)                                                                              \
        for (ptrdiff_t u = t->inside[0].first; u < t->inside[0].last; u++)                                             \
            for (ptrdiff_t v = t->inside[1].first; v < t->inside[1].last; v++) {                                       \
                real *const from =                                                                                     \
                    (real *)x + c * call->x_channel + (t->start[0] + u * p->dilation[0]) * call->x_step[0] +           \
                    (t->start[1] + v * p->dilation[1]) * call->x_step[1] + t->start[2] * call->x_step[2];              \
                real *const to = (real *)patch + ((c * p->kernel[0] + u) * p->kernel[1] + v) * p->kernel[2];           \
                for (ptrdiff_t w = t->inside[2].first; w < t->inside[2].last; w++)                                     \
                    if (back)                                                                                          \
                        from[w * width] += to[w];                                                                      \
                    else                                                                                               \
                        to[w] = from[w * width];                                                                       \
            }
    if (call->element == 4) {
        MOVE(float)
    } else {
        MOVE(double)
    }
#undef MOVE
}

/* Some places, all images: forward, or the gradient of weights and bias. */
static void place_task(void *context, ptrdiff_t index, int worker)
{
    const local_call *call = context;
    const fc_conv_problem *p = call->problem;
    const ptrdiff_t element = call->element, filters = p->out_channels;
    char *const patches = call->workspace + worker * call->room;
    for (ptrdiff_t place = index * call->chunk; place < fc_min(call->places, (index + 1) * call->chunk); place++) {
        const local_taps taps = taps_of(call, place);
        char *const weight = call->weight ? call->weight + place * filters * call->depth * element : NULL;
        char *const bias = call->bias ? call->bias + place * filters * element : NULL;
        for (ptrdiff_t first = 0; first < p->batch; first += call->images) {
            const ptrdiff_t count = fc_min(call->images, p->batch - first);
            char *const y = call->y + (first * call->y_image + place * call->y_place) * element;
            for (ptrdiff_t n = 0; n < count && weight; n++)
                move_patch(call, &taps, first + n, 0, p->in_channels, patches + n * call->depth * element, false);
            if (p->pass == FC_FORWARD) {
                const fc_dots job = {.rows = weight,
                                     .row_count = filters,
                                     .patches = patches,
                                     .pitch = call->depth,
                                     .patch_count = count,
                                     .depth = call->depth,
                                     .bias = bias,
                                     .out = y,
                                     .row_step = call->y_channel,
                                     .patch_step = call->y_image};
                call->kernels->dots(&job);
                continue;
            }
            for (ptrdiff_t k = 0; k < filters && weight; k++) {
                const fc_combine job = {.coefficients = y + k * call->y_channel * element,
                                        .step = call->y_image,
                                        .rows = patches,
                                        .pitch = call->depth,
                                        .count = count,
                                        .out = weight + k * call->depth * element,
                                        .length = call->depth,
                                        .accumulate = first > 0};
                call->kernels->combine(&job);
            }
        }
        for (ptrdiff_t k = 0; k < filters && bias && p->pass == FC_BACKWARD_WEIGHT; k++) {
            double sum = 0;
            for (ptrdiff_t n = 0; n < p->batch; n++) {
                const char *dy = call->y + (n * call->y_image + k * call->y_channel + place * call->y_place) * element;
                sum += p->dtype == FC_FLOAT32 ? *(const float *)dy : *(const double *)dy;
            }
            if (p->dtype == FC_FLOAT32)
                ((float *)bias)[k] = (float)sum;
            else
                ((double *)bias)[k] = sum;
        }
    }
}

/* Some channels of some images, all places: the input gradient, where the places overlap. */
static void channel_task(void *context, ptrdiff_t index, int worker)
{
    const local_call *call = context;
    const fc_conv_problem *p = call->problem;
    const ptrdiff_t element = call->element, first = index / call->image_blocks * call->chunk,
                    count = fc_min(call->chunk, p->in_channels - first),
                    image = index % call->image_blocks * call->images, last = fc_min(p->batch, image + call->images);
    char *const patch = call->workspace + worker * call->room;
    const bool planes = p->layout == FC_CHANNELS_FIRST;
    const ptrdiff_t pixels = p->input[0] * p->input[1] * p->input[2];
    for (ptrdiff_t n = image; n < last; n++) /* a block of channels is contiguous, or a piece of every pixel is */
        for (ptrdiff_t i = 0; i < (planes ? 1 : pixels); i++)
            memset(call->x + (n * call->x_image + first * call->x_channel + i * p->in_channels) * element, 0,
                   (size_t)(count * (planes ? pixels : 1) * element));
    for (ptrdiff_t place = 0; place < call->places; place++) {
        const local_taps taps = taps_of(call, place);
        for (ptrdiff_t n = image; n < last; n++) {
            const fc_combine job = {.coefficients = call->y + (n * call->y_image + place * call->y_place) * element,
                                    .step = call->y_channel,
                                    .rows = call->weight +
                                            (place * p->out_channels * call->depth + first * call->taps) * element,
                                    .pitch = call->depth,
                                    .count = p->out_channels,
                                    .out = patch,
                                    .length = count * call->taps,
                                    .accumulate = false};
            call->kernels->combine(&job);
            move_patch(call, &taps, n, first, count, patch, true);
        }
    }
}

fc_status fc_local(const fc_conv_problem *p, const fc_conv_arrays *arrays, int threads)
{
    if (fc_local_elements(p, 0) < 0)
        return FC_INVALID;
    local_call call = {.problem = p,
                       .kernels = fc_kernels_of(p->dtype),
                       .x = arrays->x,
                       .weight = arrays->weight,
                       .bias = arrays->bias,
                       .y = arrays->y,
                       .places = 1,
                       .taps = 1,
                       .element = (ptrdiff_t)fc_size_of(p->dtype)};
    const bool planes = p->layout == FC_CHANNELS_FIRST;
    ptrdiff_t pixels = 1;
    for (int a = 2; a >= 0; a--) {
        call.output[a] = fc_conv_output_length(p->input[a], p->kernel[a], p->stride[a], p->dilation[a],
                                               p->pad_before[a], p->pad_after[a]);
        call.x_step[a] = pixels * (planes ? 1 : p->in_channels);
        call.places *= call.output[a];
        call.taps *= p->kernel[a];
        pixels *= p->input[a];
    }
    call.depth = p->in_channels * call.taps;
    call.x_image = p->in_channels * pixels;
    call.x_channel = planes ? pixels : 1;
    call.y_image = p->out_channels * call.places;
    call.y_channel = planes ? call.places : 1;
    call.y_place = planes ? 1 : p->out_channels;
    ptrdiff_t tasks, length; /* and elements of a patch */
    if (p->pass == FC_BACKWARD_INPUT) {
        call.chunk = fc_max(fc_ceil_div(p->in_channels, CHANNEL_TASKS), fc_ceil_div(LEAST_LENGTH, call.taps));
        call.chunk = fc_min(call.chunk, p->in_channels);
        call.images = fc_max(1, fc_min(p->batch, IMAGES));
        call.image_blocks = fc_ceil_div(p->batch, call.images);
        tasks = fc_ceil_div(p->in_channels, call.chunk) * call.image_blocks;
        length = call.chunk * call.taps;
    } else {
        call.chunk = fc_max(1, TASK / (call.depth * p->out_channels));
        call.images = fc_max(1, fc_min(p->batch, IMAGES));
        tasks = fc_ceil_div(call.places, call.chunk);
        length = call.depth * call.images;
    }
    if (p->batch == 0 && p->pass == FC_BACKWARD_WEIGHT) {
        if (call.weight)
            memset(call.weight, 0, (size_t)(fc_local_elements(p, 1) * call.element));
        if (call.bias)
            memset(call.bias, 0, (size_t)(fc_local_elements(p, 2) * call.element));
    }
    if (p->batch == 0)
        return FC_OK;
    const double work = (double)call.places * (double)p->out_channels * (double)call.depth * (double)p->batch / TASK;
    threads = work < threads ? 1 + (int)work : threads;
    call.room = fc_round_up(length * call.element, FC_ALIGNMENT);
    call.workspace = fc_memory_acquire((size_t)(call.room * threads));
    if (!call.workspace)
        return FC_NOMEM;
    fc_parallel(threads, tasks, p->pass == FC_BACKWARD_INPUT ? channel_task : place_task, &call);
    fc_memory_release(call.workspace);
    return FC_OK;
}

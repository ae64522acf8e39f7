/* points.c -- forward and input gradient, channels first, of stride 1: places x (channels, taps) times (channels, taps) x filters.
 *
 * For planes too small to be cut into whole vectors, and for taps that lie outside the input of many places. The image is not copied: its
 * places are the broadcast side of the tile, which may begin anywhere, and each tap multiplies only the places that it reaches. Filters are
 * the vector side. A task takes some images and some panels of filters, packs these, unless its worker has just done so for other images,
 * and holds the sums of all their places until they are complete, when they are turned to planes. */
#include "conv.h"

typedef struct shape {
    ptrdiff_t parts, taps;                /* taps that reach any place; and of the kernel */
    ptrdiff_t places;                     /* of an image */
    ptrdiff_t depth;                      /* channels that a tile reduces over, at most */
    ptrdiff_t panels, images;             /* of a task, at most */
    ptrdiff_t panel_blocks, image_blocks; /* panel_blocks: of a group */
    ptrdiff_t panel, sums; /* elements: of a packed panel, and of the sums of an image's places with one */
    size_t worker;         /* bytes a worker needs */
} shape;

typedef struct points {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace;
} points;

enum {
    PANELS = 8,             /* of a task, at most: a tile of places meets so many while it is close by */
    ROWS_AHEAD = 4,         /* of weights, that are fetched while longer ones are packed */
    TASKS_EACH = 4,         /* of a thread, unless all have as many */
    SUMS_BYTES = 448 << 10, /* of a task: they stay in the second-level cache */
    CYCLE_BYTES = 24,       /* that the first-level cache gets from the second one without delay, about */
    /* of tiles whose steps read more, measured on Zen 3: */
    NEAR_BYTES = 20 << 10,          /* what a tile may read at the most, to stay there, */
    CLOSE_BYTES = 4 * FC_ALIGNMENT, /* unless channels lie as far apart as this: then the processor foresees them; */
    FAR_BYTES = 1 << 10,            /* further apart than this, a step costs so much more; */
    FAR_PERCENT = 8,
    L3_FAR_PERCENT = 15, /* the same of any tile, where fc_l3_is_far: -6 to 40 on a Xeon */
};

/* What a step of a tile reads: lines of places, and columns of filters. */
static ptrdiff_t step_bytes(const fc_kernels *kernels, ptrdiff_t element)
{
    return FC_ALIGNMENT + (kernels->rows[FC_NARROW] - 1 + kernels->width[FC_NARROW]) * element;
}

/* More than comes from the second-level cache meanwhile, at two multiply-adds of vectors a cycle? */
static bool reads_much(const fc_kernels *kernels, ptrdiff_t element)
{
    const ptrdiff_t cycles = kernels->rows[FC_NARROW] * (kernels->width[FC_NARROW] / kernels->lanes) / 2;
    return step_bytes(kernels, element) > CYCLE_BYTES * cycles;
}

/* Channels that a tile reduces over, at most. */
static ptrdiff_t depth_of(const fc_kernels *kernels, const fc_sweep *s, ptrdiff_t element)
{
    const bool unforeseen = fc_sweep_input(s) * element < CLOSE_BYTES;
    return unforeseen && reads_much(kernels, element) ? NEAR_BYTES / step_bytes(kernels, element) : FC_DEPTH;
}

static shape shape_of(const fc_conv_plan *plan, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(plan, 0, &offset);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), width = plan->kernels->width[FC_NARROW],
                    all = fc_ceil_div(s.filters, width);
    shape h = {.parts = fc_sweep_parts(plan),
               .taps = p->kernel[0] * p->kernel[1] * p->kernel[2],
               .places = fc_sweep_output(&s)};
    h.depth = fc_ceil_div(s.channels, fc_ceil_div(s.channels, depth_of(plan->kernels, &s, element)));
    h.panel = s.channels * h.taps * width;
    h.sums = h.places * width;
    const ptrdiff_t room = fc_max(SUMS_BYTES / (h.sums * element), 1), /* images' panels of sums */
        fitting = (ptrdiff_t)(plan->limit / 2) / (h.panel * element);
    h.panel_blocks = fc_ceil_div(all, fc_max(fc_min(fc_min(PANELS, room), fitting), 1));
    h.images = fc_max(fc_min(room / fc_ceil_div(all, h.panel_blocks), s.batch), 1);
    h.image_blocks = fc_ceil_div(s.batch, h.images);
    h.images = fc_ceil_div(s.batch, h.image_blocks);
    for (; threads > 1 && h.panel_blocks < all; h.panel_blocks++) {
        const ptrdiff_t tasks = s.groups * h.image_blocks * h.panel_blocks;
        if (tasks >= TASKS_EACH * threads || tasks % threads == 0)
            break;
    }
    h.panels = fc_ceil_div(all, h.panel_blocks);
    h.worker = (size_t)fc_round_up(h.panels * (h.panel + h.images * h.sums + width) * element + 4 * FC_ALIGNMENT,
                                   FC_ALIGNMENT);
    return h;
}

/* What a task has at hand. */
typedef struct desk {
    const points *p;
    ptrdiff_t image, images, group, first, panels; /* first: panel of the group */
    bool packed;                                   /* its filters, by the task before */
    char *filters, *sums, *bias;
} desk;

/* Channels k0 .. k1-1 of the panels, each (channel, tap, filter). */
static void pack(const desk *d, const fc_sweep *s, ptrdiff_t k0, ptrdiff_t k1)
{
    const points *p = d->p;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = kernels->width[FC_NARROW],
                    taps = h->taps, row = s->filters * taps * element;
    ptrdiff_t whole = 0; /* panels of one tap, whose columns lie side by side */
    if (p->plan->problem.pass != FC_FORWARD && taps == 1)
        whole = fc_min(d->panels, s->filters / width - d->first);
    for (ptrdiff_t k = k0; whole && k < k1; k++) {
        const char *rows = p->weight + d->group * s->channels * row + d->first * width * element;
        kernels->copy_columns(rows + k * row, rows + fc_min(k + ROWS_AHEAD, s->channels - 1) * row, whole, width,
                              d->filters + k * width * element, h->panel);
    }
    for (ptrdiff_t j = whole; j < d->panels; j++) {
        const ptrdiff_t filter = (d->first + j) * width, columns = fc_min(width, s->filters - filter);
        char *to = d->filters + (j * h->panel + k0 * taps * width) * element;
        if (columns < width)
            memset(to, 0, (size_t)((k1 - k0) * taps * width * element));
        if (p->plan->problem.pass == FC_FORWARD) {
            const ptrdiff_t pitch = s->channels * taps;
            kernels->transpose(p->weight + ((d->group * s->filters + filter) * pitch + k0 * taps) * element, pitch, to,
                               width, columns, (k1 - k0) * taps);
            continue;
        }
        const char *from = p->weight + (d->group * s->channels + k0) * row + filter * taps * element;
        for (ptrdiff_t k = k0; k < k1; k++, from += row, to += taps * width * element)
            if (taps == 1)
                kernels->copy(from, to, columns);
            else if (taps == 9 && columns >= kernels->lanes)
                kernels->nines_apart(from, columns, to, width, false);
            else
                kernels->transpose(from, taps, to, width, columns, taps);
    }
}

/* A stretch of places of every image, with one tap: where it begins in the input's plane and in the output's. */
typedef struct stretch {
    ptrdiff_t from, to, length;
} stretch;

/* Adds the products of a block of the reduction, from channel k0 on, with a tap of the kernel, to the sums of a stretch. */
static void add_stretch(const desk *d, const fc_sweep *s, const stretch *at, ptrdiff_t k0, ptrdiff_t tap, fc_tile *t)
{
    const points *p = d->p;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = kernels->width[FC_NARROW],
                    plane = fc_sweep_input(s), tiles = fc_ceil_div(at->length, kernels->rows[FC_NARROW]),
                    all = d->images * tiles;
    for (ptrdiff_t n = 0, place = 0; n < all; n++) {
        const ptrdiff_t i = n / tiles, rows = (at->length - place) / (tiles - n % tiles);
        const bool last = n % tiles == tiles - 1;
        const char *image = p->in + (((d->image + i) * s->groups + d->group) * s->channels + k0) * plane * element,
                   *a = image + (at->from + place) * element,
                   *next = last ? image + (s->groups * s->channels * plane + at->from) * element : a + rows * element;
        t->a = a;
        for (ptrdiff_t j = 0; j < d->panels; j++) {
            const ptrdiff_t r0 = j * t->depth / d->panels, r1 = (j + 1) * t->depth / d->panels;
            t->b = d->filters + (j * h->panel + (k0 * h->taps + tap) * width) * element;
            t->c = d->sums + ((j * h->images + i) * h->sums + (at->to + place) * width) * element;
            t->column_bias = p->bias && !t->accumulate ? d->bias + j * width * element : NULL;
            t->ahead = next + r0 * plane * element;
            t->ahead_count = n + 1 < all ? r1 - r0 : 0;
            kernels->tile_panel[FC_NARROW][rows - 1](t);
        }
        place = last ? 0 : place + rows;
    }
}

/* Adds the products of a block of channels with the part-th tap, at all places that it reaches. */
static void add_part(const desk *d, ptrdiff_t part, ptrdiff_t k0, ptrdiff_t k1)
{
    const points *p = d->p;
    const shape *h = p->shape;
    const ptrdiff_t width = p->plan->kernels->width[FC_NARROW];
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(p->plan, part, &offset);
    const fc_axis *ax = s.axis;
    ptrdiff_t run = ax[2].places, runs[2] = {ax[0].places, ax[1].places};
    for (int a = 2; a > 0 && ax[a].places == ax[a].input && ax[a].places == ax[a].output; a--) {
        run *= runs[a - 1]; /* rows follow one another */
        runs[a - 1] = 1;
    }
    fc_tile t = {.depth = k1 - k0,
                 .lda = fc_sweep_input(&s),
                 .ldb = h->taps * width,
                 .ldc = width,
                 .ahead_step = fc_sweep_input(&s),
                 .accumulate = part > 0 || k0 > 0, /* the first tap reaches all places */
                 .relu = p->plan->problem.relu && h->parts == 1 && k1 == s.channels};
    for (ptrdiff_t i = 0; i < runs[0]; i++)
        for (ptrdiff_t j = 0; j < runs[1]; j++) {
            const stretch at = {((ax[0].origin + i) * ax[1].input + ax[1].origin + j) * ax[2].input + ax[2].origin,
                                ((ax[0].output_first + i) * ax[1].output + ax[1].output_first + j) * ax[2].output +
                                    ax[2].output_first,
                                run};
            add_stretch(d, &s, &at, k0, fc_part_tap(p->plan, offset), &t);
        }
}

/* Turns the sums to planes. */
static void put(const desk *d, const fc_sweep *s)
{
    const points *p = d->p;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = kernels->width[FC_NARROW];
    for (ptrdiff_t i = 0; i < d->images; i++)
        for (ptrdiff_t j = 0; j < d->panels; j++) {
            const ptrdiff_t filter = (d->first + j) * width,
                            channel = ((d->image + i) * s->groups + d->group) * s->filters + filter;
            char *sums = d->sums + (j * h->images + i) * h->sums * element;
            if (p->plan->problem.relu && h->parts > 1)
                kernels->activate[FC_RELU](sums, NULL, sums, h->sums);
            kernels->transpose(sums, width, p->out + channel * h->places * element, h->places, h->places,
                               fc_min(width, s->filters - filter));
        }
}

static void run_task(void *context, ptrdiff_t index, int worker)
{
    const points *p = context;
    const shape *h = p->shape;
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(p->plan, 0, &offset);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = p->plan->kernels->width[FC_NARROW],
                    block = index / h->image_blocks;
    desk d = {.p = p,
              .image = index % h->image_blocks * h->images,
              .group = block / h->panel_blocks,
              .first = block % h->panel_blocks * h->panels};
    d.images = fc_min(h->images, s.batch - d.image);
    d.panels = fc_min(h->panels, fc_ceil_div(s.filters, width) - d.first);
    if (d.panels <= 0)
        return;
    char *at = p->workspace + (size_t)worker * h->worker;
    ptrdiff_t *held = fc_take(&at, sizeof *held); /* the block whose filters are packed */
    d.packed = *held == block;
    *held = block;
    d.filters = fc_take(&at, h->panels * h->panel * element);
    d.sums = fc_take(&at, h->panels * h->images * h->sums * element);
    d.bias = fc_take(&at, 0);
    if (p->bias) {
        memset(d.bias, 0, (size_t)(d.panels * width * element));
        memcpy(d.bias, p->bias + (d.group * s.filters + d.first * width) * element,
               (size_t)(fc_min(d.panels * width, s.filters - d.first * width) * element));
    }
    for (ptrdiff_t k = 0; k < s.channels; k += h->depth) {
        const ptrdiff_t end = fc_min(k + h->depth, s.channels);
        if (!d.packed)
            pack(&d, &s, k, end);
        for (ptrdiff_t part = 0; part < h->parts; part++)
            add_part(&d, part, k, end);
    }
    put(&d, &s);
}

const char *fc_points_decline(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->layout == FC_CHANNELS_LAST || p->pass == FC_BACKWARD_WEIGHT)
        return "it reads planes";
    if (p->stride[0] != 1 || p->stride[1] != 1 || p->stride[2] != 1)
        return "places are not as far apart as pixels";
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(plan, 0, &offset);
    if (!plan->apart && !fc_sweep_of_pixels(&s))
        return "its places are not pixels";
    if (fc_sweep_output(&s) * plan->kernels->width[FC_NARROW] * (ptrdiff_t)fc_size_of(p->dtype) > SUMS_BYTES ||
        fc_points_workspace(plan, 1) > plan->limit)
        return "its planes are too large";
    return NULL;
}

/* Cycles: of products, two multiply-adds of vectors each; of packing filters; of turning sums. */
double fc_points_cost(const fc_conv_plan *plan)
{
    const shape h = shape_of(plan, 1);
    const ptrdiff_t width = plan->kernels->width[FC_NARROW];
    ptrdiff_t offset, places = 0;
    const fc_sweep s = fc_sweep_part(plan, 0, &offset);
    for (ptrdiff_t part = 0; part < h.parts; part++) {
        const fc_sweep reached = fc_sweep_part(plan, part, &offset);
        places += fc_sweep_places(&reached);
    }
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype);
    const int percent = fc_sweep_input(&s) * element <= FAR_BYTES ? 0
                        : fc_l3_is_far(plan)                      ? L3_FAR_PERCENT
                        : reads_much(plan->kernels, element)      ? FAR_PERCENT
                                                                  : 0;
    const double lanes = (double)plan->kernels->lanes,
                 products =
                     (double)(s.batch * places) * (double)(s.channels * width) / lanes / 2 * (1 + percent / 100.),
                 packed = (double)h.panel / lanes * (plan->problem.pass == FC_FORWARD ? 3.2 : 1.6),
                 turned = (double)(s.batch * h.sums) / lanes * 5.6;
    return (double)(s.groups * fc_ceil_div(s.filters, width)) * (products + packed + turned) / FC_NOMINAL_HERTZ;
}

size_t fc_points_workspace(const fc_conv_plan *plan, int threads)
{
    return shape_of(plan, threads).worker * (size_t)threads;
}

void fc_points_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const shape h = shape_of(plan, threads);
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(plan, 0, &offset);
    const bool forward = plan->problem.pass == FC_FORWARD;
    points p = {.plan = plan,
                .shape = &h,
                .in = forward ? arrays->x : arrays->y,
                .weight = arrays->weight,
                .bias = forward ? arrays->bias : NULL,
                .out = forward ? arrays->y : arrays->x,
                .workspace = workspace};
    for (int i = 0; i < threads; i++)
        *(ptrdiff_t *)(p.workspace + (size_t)i * h.worker) = -1;
    fc_parallel(threads, h.image_blocks * s.groups * h.panel_blocks, run_task, &p);
}

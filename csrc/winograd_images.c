/* winograd_images.c -- Winograd's tiles with an image in each lane of a vector, for layers of few channels or filters: vectors across those
 * would be mostly empty. Channels first, stride 1, forward and input gradient.
 *
 * A task takes a set of as many images as a vector has lanes, one group, and a block of tiles, from start to end.
 *
 * v, a block's transformed input:  [point][pair of tiles][channel][tile of the pair][image]
 * u, transformed filters:          [group][point][channels / lanes][filter][lanes]; few: of one group, by each worker for itself
 * m, their products:               [point][pair of tiles][filter][tile of the pair][image], of the filters of one part */
#include "winograd.h"

#include <math.h>

enum {
    BLOCK_BYTES = 640 << 10, /* of v and m: they stay in the second-level cache */
    MOST_FILTERS = 8,        /* of a part */
    FILTERS = 16,            /* of a task that transforms them */
    OWN_BYTES = 128 << 10,   /* of a group's filters, transformed: each worker makes its own, others' are far */
    MOST_LANES = 16,
};

typedef struct view {
    ptrdiff_t channels, filters; /* read and written, per group */
    ptrdiff_t input[2], origin[2], output[2];
    int taps[2];
    ptrdiff_t sets, vectors; /* of images, of channels */
    bool turned;
} view;

typedef struct shape {
    axis axis[2];
    ptrdiff_t blocks, tiles; /* of a set; tiles of a block, at most */
    int points[2];
    ptrdiff_t part, parts;         /* filters of a part, at most */
    ptrdiff_t v_pitch, m_pitch;    /* from point to point: elements */
    ptrdiff_t u_pitch, u;          /* of a group */
    ptrdiff_t reach[2], stage;     /* positions of a block's input; elements */
    ptrdiff_t taps, offsets, list; /* elements, entries */
    bool own;                      /* every worker has filters of its own, of one group at a time */
    size_t worker, shared;         /* bytes */
} shape;

/* A tile of a block. */
typedef struct place {
    fc_winograd_size size;
    ptrdiff_t at[2];             /* of its outputs, from the block's first */
    ptrdiff_t slots[2][CLASSES]; /* in v, of the first channel; in m, of the first filter */
    uint32_t used; /* of the first of a pair: bits of the classes, down and across, of which either has points */
} place;

typedef struct job {
    const fc_conv_plan *plan;
    const view *view;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace, *shared;
    bool past; /* what is shared is written past the caches */
} job;

static view view_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    view w = {.channels = (back ? p->out_channels : p->in_channels) / p->groups,
              .filters = (back ? p->in_channels : p->out_channels) / p->groups,
              .sets = fc_ceil_div(p->batch, plan->kernels->lanes),
              .turned = back};
    w.vectors = fc_ceil_div(w.channels, plan->kernels->lanes);
    for (int a = 0; a < 2; a++) {
        const ptrdiff_t pad = p->pad_before[a + 1];
        w.taps[a] = (int)fc_min(p->kernel[a + 1], FC_WINOGRAD_TAPS + 1);
        w.input[a] = back ? plan->output[a + 1] : p->input[a + 1];
        w.output[a] = back ? p->input[a + 1] : plan->output[a + 1];
        w.origin[a] = back ? pad - (w.taps[a] - 1) : -pad;
    }
    return w;
}

/* Estimated cycles, as algo_winograd.c counts them. */
static double cycles_of(const fc_conv_plan *plan, const view *w, const axis axes[2])
{
    const double channels = (double)w->channels, filters = (double)w->filters, groups = (double)plan->problem.groups;
    const double points = (double)(points_of(&axes[0]) * points_of(&axes[1])),
                 pixels = (double)(axes[0].length * axes[1].length),
                 parts = ceil(filters / MOST_FILTERS), /* each product waits for its own sums, and writes them */
        product = points * (0.6 * channels * filters + 4 * parts);
    return 4000 + groups * (filters * (double)w->vectors * (3.5 * axes[0].points * axes[1].points + 75) +
                            (double)w->sets * (product + channels * (5 * points + 10 * pixels) +
                                               filters * (4.5 * points + 8 * pixels)));
}

/* The segments of both axes that cost least. */
static double choose(const fc_conv_plan *plan, const view *w, axis chosen[2])
{
    double least = INFINITY;
    axis candidates[2][AXES];
    int counts[2];
    for (int a = 0; a < 2; a++)
        counts[a] = list_axes(w->output[a], w->taps[a], candidates[a]);
    for (int i = 0; i < counts[0]; i++)
        for (int k = 0; k < counts[1]; k++) {
            const axis both[2] = {candidates[0][i], candidates[1][k]};
            const double cycles = cycles_of(plan, w, both);
            if (cycles < least) {
                least = cycles;
                chosen[0] = both[0];
                chosen[1] = both[1];
            }
        }
    return least;
}

static shape shape_of(const fc_conv_plan *plan, const view *w)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), lanes = plan->kernels->lanes;
    shape h = {.stage = 0};
    choose(plan, w, h.axis);
    for (int a = 0; a < 2; a++)
        h.points[a] = h.axis[a].points;
    const ptrdiff_t points = h.points[0] * h.points[1];
    h.parts = fc_ceil_div(w->filters, fc_min(MOST_FILTERS, plan->kernels->rows[FC_NARROW]));
    h.part = fc_ceil_div(w->filters, h.parts);
    const ptrdiff_t target = fc_max(BLOCK_BYTES / (points * (w->channels + h.part) * lanes * element), 1);
    h.blocks = 1;
    h.tiles = 1;
    ptrdiff_t area = 1;
    for (int a = 1; a >= 0; a--) {
        axis *x = &h.axis[a];
        const ptrdiff_t most = fc_min(x->segments, fc_max(target / h.tiles, 1));
        x->blocks = fc_ceil_div(x->segments, most);
        x->block = fc_ceil_div(x->segments, x->blocks);
        h.blocks *= x->blocks;
        h.tiles *= x->block;
        h.reach[a] = x->block * outputs_of(x->taps, x->points) + x->taps - 1;
        area *= h.reach[a];
    }
    /* odd numbers of cache lines, so that the points of a tile do not share sets */
    h.v_pitch = ((fc_round_up(h.tiles, 2) * w->channels) | 1) * lanes;
    h.m_pitch = ((fc_round_up(h.tiles, 2) * h.part) | 1) * lanes;
    h.u_pitch = ((w->vectors * w->filters) | 1) * lanes;
    h.u = points * h.u_pitch;
    h.stage = area * lanes;
    h.taps = w->taps[0] * w->taps[1] * lanes;
    h.own = h.u * element <= OWN_BYTES;
    h.worker = fc_worker_pitch(
        fc_round_up((points * (h.v_pitch + h.m_pitch) + h.stage + h.taps + (h.own ? h.u : 0)) * element, FC_ALIGNMENT) +
        8 * FC_ALIGNMENT + fc_round_up(area * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT) +
        fc_round_up(h.tiles * (ptrdiff_t)sizeof(place), FC_ALIGNMENT));
    h.shared = h.own ? 0 : (size_t)(plan->problem.groups * h.u * element);
    return h;
}

/* ---- what a worker has ------------------------------------------------------------------------------------ */

typedef struct space {
    ptrdiff_t *group; /* whose filters are its own, or -1 */
    char *v, *m, *stage, *taps, *own;
    ptrdiff_t *offsets;
    place *places;
} space;

static space space_of(const job *j, int worker)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), points = h->points[0] * h->points[1];
    char *at = j->workspace + (size_t)worker * h->worker;
    space s;
    s.group = fc_take(&at, sizeof *s.group);
    s.v = fc_take(&at, points * h->v_pitch * element);
    s.m = fc_take(&at, points * h->m_pitch * element);
    s.stage = fc_take(&at, h->stage * element);
    s.taps = fc_take(&at, h->taps * element);
    s.own = fc_take(&at, (h->own ? h->u : 0) * element);
    s.offsets = fc_take(&at, h->reach[0] * h->reach[1] * (ptrdiff_t)sizeof(ptrdiff_t));
    s.places = fc_take(&at, 0);
    return s;
}

/* ---- the filters ------------------------------------------------------------------------------------------ */

/* Filters from first to last of a group, to where it has them; taps: room. */
static void transform_filters(const job *j, ptrdiff_t group, ptrdiff_t first, ptrdiff_t last, char *taps, char *to)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    kernel = (ptrdiff_t)w->taps[0] * w->taps[1], pitch = (w->turned ? w->filters : 1) * kernel;
    ptrdiff_t at[FC_WINOGRAD_TAPS * FC_WINOGRAD_TAPS];
    for (ptrdiff_t t = 0; t < kernel; t++)
        at[t] = (w->turned ? kernel - 1 - t : t) * lanes;
    for (ptrdiff_t f = first; f < last; f++)
        for (ptrdiff_t v = 0; v < w->vectors; v++) {
            const ptrdiff_t c = v * lanes, of = w->turned ? (group * w->channels + c) * w->filters + f
                                                          : (group * w->filters + f) * w->channels + c;
            kernels->planes_in(j->weight + of * kernel * element, pitch, fc_min(lanes, w->channels - c), kernel, false,
                               taps, NULL);
            const fc_winograd_filter filter = {
                .size = {.taps = {w->taps[0], w->taps[1]}, .points = {h->axis[0].points, h->axis[1].points}},
                .from = taps,
                .at = at,
                .count = 1,
                .vectors = 1,
                .to = to + (v * w->filters + f) * lanes * element,
                .pitch = h->u_pitch,
                .streamed = !h->own && j->past};
            kernels->winograd_filter(&filter);
        }
}

static void share_filters(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const view *w = j->view;
    const shape *h = j->shape;
    const ptrdiff_t blocks = fc_ceil_div(w->filters, FILTERS), group = index / blocks, first = index % blocks * FILTERS;
    transform_filters(j, group, first, fc_min(first + FILTERS, w->filters), space_of(j, worker).taps,
                      j->shared + group * h->u * (ptrdiff_t)fc_size_of(j->plan->problem.dtype));
}

/* ---- a block ---------------------------------------------------------------------------------------------- */

/* Where a set's block lies. */
typedef struct block {
    ptrdiff_t image, images, group;
    ptrdiff_t first[2], last[2];   /* segments */
    ptrdiff_t begin[2], length[2]; /* outputs */
    ptrdiff_t places;
} block;

static block block_at(const job *j, ptrdiff_t index, place *list)
{
    const shape *h = j->shape;
    const ptrdiff_t lanes = j->plan->kernels->lanes, of_set = index % h->blocks;
    const ptrdiff_t at[2] = {of_set / h->axis[1].blocks, of_set % h->axis[1].blocks};
    block b = {.image = index / h->blocks % j->view->sets * lanes, .group = index / h->blocks / j->view->sets};
    b.images = fc_min(lanes, j->plan->problem.batch - b.image);
    for (int a = 0; a < 2; a++) {
        const axis *x = &h->axis[a];
        b.first[a] = at[a] * x->block;
        b.last[a] = fc_min(b.first[a] + x->block, x->segments);
        b.begin[a] = segment_start(x, b.first[a]);
        b.length[a] = fc_min(segment_start(x, b.last[a]), x->length) - b.begin[a];
    }
    ptrdiff_t end[2][CLASSES + 1]; /* of the segments that have points of a class; none have those after the last */
    for (int a = 0; a < 2; a++)
        for (int c = 0; c <= CLASSES; c++)
            end[a][c] = b.first[a] + segments_in(&h->axis[a], b.first[a], b.last[a], c);
    for (int i = CLASSES - 1; i >= 0; i--)
        for (int k = CLASSES - 1; k >= 0; k--) /* those of a pair are of one size, if they can be */
            for (ptrdiff_t down = end[0][i + 1]; down < end[0][i]; down++)
                for (ptrdiff_t across = end[1][k + 1]; across < end[1][k]; across++)
                    list[b.places++] = (place){.size = {.taps = {h->axis[0].taps, h->axis[1].taps},
                                                        .points = {i + LEAST, k + LEAST},
                                                        .alike = {SIDE}},
                                               .at = {segment_start(&h->axis[0], down) - b.begin[0],
                                                      segment_start(&h->axis[1], across) - b.begin[1]}};
    return b;
}

/* Where each point begins, and, the same for every class, where a tile lies there; count: channels or filters. */
static void list_points(const shape *h, ptrdiff_t pitch, ptrdiff_t table[POINTS])
{
    for (int i = 0; i < h->points[0]; i++)
        for (int k = 0; k < h->points[1]; k++)
            table[i * SIDE + k] = (i * h->points[1] + k) * pitch;
}

static void list_slots(ptrdiff_t tile, ptrdiff_t count, ptrdiff_t lanes, ptrdiff_t slots[CLASSES])
{
    for (int i = 0; i < CLASSES; i++)
        slots[i] = (tile / 2 * 2 * count + tile % 2) * lanes;
}

static void transform_input(const job *j, const block *b, const space *s)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    width = w->input[1], plane = w->input[0] * width, channels = j->plan->problem.groups * w->channels;
    ptrdiff_t begin[2], length[2], low[2], high[2]; /* the region, and where the input lies in it */
    for (int a = 0; a < 2; a++) {
        begin[a] = w->origin[a] + b->begin[a];
        length[a] = segment_start(&h->axis[a], b->last[a]) - b->begin[a] + w->taps[a] - 1;
        low[a] = fc_min(fc_max(-begin[a], 0), length[a]);
        high[a] = fc_max(fc_min(w->input[a] - begin[a], length[a]), low[a]);
    }
    const ptrdiff_t rows = high[0] - low[0], columns = high[1] - low[1],
                    pixel = (begin[0] + low[0]) * width + begin[1] + low[1];
    if (rows < length[0] || columns < length[1])
        memset(s->stage, 0, (size_t)(length[0] * length[1] * lanes * element));
    const bool whole = columns == width;                                /* rows follow one another, */
    const ptrdiff_t *offsets = columns < length[1] ? s->offsets : NULL; /* perhaps also where they go */
    for (ptrdiff_t r = 0, n = 0; whole && offsets && r < rows; r++)
        for (ptrdiff_t k = 0; k < columns; k++)
            s->offsets[n++] = (r * length[1] + k) * lanes;
    char *to = s->stage + (low[0] * length[1] + low[1]) * lanes * element;
    ptrdiff_t table[POINTS];
    list_points(h, h->v_pitch, table);
    for (ptrdiff_t c = 0; c < w->channels; c++) {
        const char *from = j->in + (((b->image * channels) + b->group * w->channels + c) * plane + pixel) * element;
        if (whole && rows)
            kernels->planes_in(from, channels * plane, b->images, rows * columns, false, to, offsets);
        else
            for (ptrdiff_t r = 0; columns && r < rows; r++)
                kernels->planes_in(from + r * width * element, channels * plane, b->images, columns, false,
                                   to + r * length[1] * lanes * element, NULL);
        for (ptrdiff_t t = 0; t < b->places; t++) {
            const place *p = &s->places[t];
            kernels->winograd_input[0](s->stage + (p->at[0] * length[1] + p->at[1]) * lanes * element,
                                       length[1] * lanes, &p->size, s->v + 2 * c * lanes * element, table, p->slots[0]);
        }
    }
}

/* The bit of a class of points down and one across. */
static uint32_t bit_of(int down, int across) { return (uint32_t)1 << (down * CLASSES + across); }

/* Those of which a tile has points. */
static uint32_t classes_of(const fc_winograd_size *size)
{
    uint32_t bits = 0;
    for (int i = 0; i <= fc_winograd_class(size->points[0] - 1); i++)
        for (int k = 0; k <= fc_winograd_class(size->points[1] - 1); k++)
            bits |= bit_of(i, k);
    return bits;
}

/* m = u v at every point of every tile, for filters from `first` on. */
static void multiply(const job *j, const block *b, ptrdiff_t first, ptrdiff_t filters, const space *s)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    fc_winograd_tile_kernel *kernel = j->plan->kernels->winograd_tile[1][filters - 1];
    const char *u = (h->own ? s->own : j->shared + b->group * h->u * element) + first * lanes * element;
    const ptrdiff_t v_step = 2 * w->channels * lanes * element, m_step = 2 * h->part * lanes * element;
    fc_winograd_tile tile = {.pitch = w->filters * lanes, .depth = w->channels, .next_pitch = lanes * lanes};
    for (int i = 0; i < h->points[0]; i++)
        for (int k = 0; k < h->points[1]; k++) {
            const ptrdiff_t point = i * h->points[1] + k;
            const uint32_t class = bit_of(fc_winograd_class(i), fc_winograd_class(k));
            const char *v = s->v + point * h->v_pitch * element;
            char *m = s->m + point * h->m_pitch * element;
            tile.v = u + point * h->u_pitch * element;
            for (const place *p = s->places; p < s->places + b->places; p += 2, v += v_step, m += m_step)
                if (p->used & class) {
                    tile.u = v;
                    tile.next = v + v_step;
                    tile.m = m;
                    kernel(&tile);
                }
        }
}

static void put_output(const job *j, const block *b, ptrdiff_t first, ptrdiff_t filters, const space *s)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    width = w->output[1], plane = w->output[0] * width, all = j->plan->problem.groups * w->filters;
    ptrdiff_t run = b->length[1], runs = b->length[0];
    if (run == width) {
        run *= runs;
        runs = 1;
    }
    ptrdiff_t table[POINTS];
    list_points(h, h->m_pitch, table);
    for (ptrdiff_t f = 0; f < filters; f++) {
        const ptrdiff_t filter = b->group * w->filters + first + f;
        char bias[MOST_LANES * sizeof(double)] = {0};
        for (ptrdiff_t i = 0; j->bias && i < lanes; i++)
            memcpy(bias + i * element, j->bias + filter * element, (size_t)element);
        fc_winograd_out o = {.pitch = b->length[1] * lanes, .bias = bias, .relu = j->plan->problem.relu};
        for (ptrdiff_t t = 0; t < b->places; t++) {
            const place *p = &s->places[t];
            o.to = s->stage + (p->at[0] * b->length[1] + p->at[1]) * lanes * element;
            o.rows = fc_min(outputs_of(p->size.taps[0], p->size.points[0]), b->length[0] - p->at[0]);
            o.columns = fc_min(outputs_of(p->size.taps[1], p->size.points[1]), b->length[1] - p->at[1]);
            kernels->winograd_output(s->m + 2 * f * lanes * element, table, p->slots[1], &p->size, &o);
        }
        char *to = j->out + ((b->image * all + filter) * plane + b->begin[0] * width + b->begin[1]) * element;
        for (ptrdiff_t r = 0; r < runs; r++)
            kernels->planes_out(s->stage + r * b->length[1] * lanes * element, run, to + r * width * element,
                                all * plane, b->images);
    }
}

static void run_block(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const space s = space_of(j, worker);
    const block b = block_at(j, index, s.places);
    if (h->own && *s.group != b.group)
        transform_filters(j, b.group, 0, j->view->filters, s.taps, s.own);
    *s.group = b.group;
    for (ptrdiff_t t = 0; t < b.places; t++) {
        place *const first = &s.places[t / 2 * 2];
        first->used = classes_of(&s.places[t].size) | (t % 2 ? first->used : 0);
        list_slots(t, j->view->channels, j->plan->kernels->lanes, s.places[t].slots[0]);
        list_slots(t, h->part, j->plan->kernels->lanes, s.places[t].slots[1]);
    }
    transform_input(j, &b, &s);
    for (ptrdiff_t f = 0; f < j->view->filters; f += h->part) {
        const ptrdiff_t filters = fc_min(h->part, j->view->filters - f);
        multiply(j, &b, f, filters, &s);
        put_output(j, &b, f, filters, &s);
    }
}

/* ---- the driver ------------------------------------------------------------------------------------------- */

bool fc_winograd_images_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    bool fits = p->layout == FC_CHANNELS_FIRST && p->pass != FC_BACKWARD_WEIGHT && !fc_is_dilated(plan) && p->batch > 1;
    for (int a = 1; a < 3; a++)
        fits = fits && p->stride[a] == 1 && p->kernel[a] <= FC_WINOGRAD_TAPS;
    if (!fits)
        return false;
    const view w = view_of(plan);
    const shape h = shape_of(plan, &w);
    return h.worker + h.shared <= plan->limit;
}

double fc_winograd_images_cost(const fc_conv_plan *plan)
{
    const view w = view_of(plan);
    axis chosen[2];
    return choose(plan, &w, chosen) / FC_NOMINAL_HERTZ;
}

size_t fc_winograd_images_workspace(const fc_conv_plan *plan, int threads)
{
    const view w = view_of(plan);
    const shape h = shape_of(plan, &w);
    return h.worker * (size_t)threads + h.shared;
}

void fc_winograd_images_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const view w = view_of(plan);
    const shape h = shape_of(plan, &w);
    job j = {.plan = plan,
             .view = &w,
             .shape = &h,
             .in = w.turned ? arrays->y : arrays->x,
             .weight = arrays->weight,
             .bias = w.turned ? NULL : arrays->bias,
             .out = w.turned ? arrays->x : arrays->y,
             .workspace = space,
             .shared = space + (size_t)threads * h.worker,
             .past = fc_threads_apart(threads)};
    if (!h.own)
        fc_parallel(threads, plan->problem.groups * fc_ceil_div(w.filters, FILTERS), share_filters, &j);
    for (int i = 0; i < threads; i++)
        *space_of(&j, i).group = -1;
    fc_parallel(threads, plan->problem.groups * w.sets * h.blocks, run_block, &j);
}

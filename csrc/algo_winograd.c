/* algo_winograd.c -- 3x3 kernels at unit stride with fewer multiplications: y = A' [(G g G') . (B' x B)] A on tiles of 6, 4 and 2
 * outputs a side (kernels/winograd_transforms.inc), summed over channels by one small matrix product per point.
 *
 * Each axis of the output is covered by segments of 6, then 4, then 2, so that few places are computed in vain; a tile is one segment down
 * by one across, and uses only its own points of the filter. A block is a rectangle of tiles of one image, or all tiles of several.
 *
 * v, a block's transformed input:  [point][channels / lanes][tile][lanes]
 * u, transformed filters:          [panel of filters][point][channel][width]
 * m, their products, of one panel: [point][tile][width]
 *
 * Kept: u is small, is computed first, and every block then makes its own v and meets all of u. Otherwise v is computed first, and every
 * (block, panel) makes the u that it needs, a chunk of channels at a time: less work than fetching it from memory. */
#include "conv.h"

#include <math.h>

enum {
    TAPS = 9,
    SIDE = FC_WINOGRAD_SIDE,
    POINTS = SIDE * SIDE,
    CLASSES = FC_WINOGRAD_CLASSES,
    SLOTS = CLASSES * CLASSES
};

typedef struct axis {
    ptrdiff_t length;         /* outputs */
    ptrdiff_t count[CLASSES]; /* segments of 1, 2, 3 pairs of outputs; the largest come first */
    ptrdiff_t segments;
    int pairs;               /* of the largest */
    ptrdiff_t block, blocks; /* segments of a block, at most; blocks */
} axis;

typedef struct shape {
    axis axis[2];                   /* down, across */
    ptrdiff_t images, image_blocks; /* of a block, at most */
    ptrdiff_t blocks, tiles;        /* tiles of a block, at most */
    ptrdiff_t points;
    ptrdiff_t vectors; /* of channels */
    ptrdiff_t width, panels;
    bool kept;
    ptrdiff_t chunk;                /* channels whose filters are transformed at once */
    ptrdiff_t v, u, m, stage, taps; /* elements */
    ptrdiff_t round;                /* blocks whose v is held at once, unless kept */
    size_t worker, shared;          /* bytes */
    /* of the weight gradient */
    ptrdiff_t range;                     /* panels whose sums are held at once */
    ptrdiff_t task_vectors, task_panels; /* of a task: vectors of channels, panels of filters */
    ptrdiff_t tasks[2];                  /* of a range, along channels and panels */
    ptrdiff_t d, sums;                   /* elements: dy of a block, sums of a task */
} shape;

/* What is transformed tile by tile: x, or dy. */
typedef struct operand {
    const char *data;
    ptrdiff_t channels, groups;   /* channels of a group */
    ptrdiff_t size[2], origin[2]; /* of its plane; of the first tile */
    ptrdiff_t margin;             /* of a tile beyond its outputs */
    ptrdiff_t first;              /* vector of channels that lies first in v */
    fc_winograd_in *transform;
} operand;

typedef struct job {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    const shape *shape;
    operand in, dy; /* dy: of the weight gradient */
    const char *weight, *bias;
    char *out, *workspace, *shared;
    bool turned;
    ptrdiff_t group, first_block;
    /* of the weight gradient */
    ptrdiff_t blocks;               /* of the round */
    ptrdiff_t range, range_vectors; /* first vector of filters, and how many */
} job;

/* ---- geometry --------------------------------------------------------------------------------------------- */

/* `sixes` segments of 6, what is left by 4 and 2; never a whole segment in vain. */
static axis axis_of(ptrdiff_t length, ptrdiff_t sixes)
{
    axis a = {.length = length};
    ptrdiff_t left = fc_max(length - 6 * sixes, 0);
    a.count[2] = sixes;
    a.count[1] = (left + 1) / 4; /* of 3, an output in vain costs less than another segment */
    a.count[0] = fc_max(fc_ceil_div(left - 4 * a.count[1], 2), 0);
    a.segments = a.count[0] + a.count[1] + a.count[2];
    a.pairs = a.count[2] ? 3 : a.count[1] ? 2 : 1;
    return a;
}

static int segment_pairs(const axis *a, ptrdiff_t i)
{
    return i < a->count[2] ? 3 : i < a->count[2] + a->count[1] ? 2 : 1;
}

static ptrdiff_t segment_start(const axis *a, ptrdiff_t i)
{
    ptrdiff_t large = fc_min(i, a->count[2]), middle = fc_min(i - large, a->count[1]);
    return 6 * large + 4 * middle + 2 * (i - large - middle);
}

/* Segments from first to last that use points of the class. */
static ptrdiff_t segments_in(const axis *a, ptrdiff_t first, ptrdiff_t last, int class)
{
    ptrdiff_t end = a->count[2] + (class < 2 ? a->count[1] : 0) + (class < 1 ? a->count[0] : 0);
    return fc_max(fc_min(last, end) - first, 0);
}

typedef struct block {
    ptrdiff_t image, images;
    ptrdiff_t first[2], last[2];    /* segments */
    ptrdiff_t users[2][CLASSES];    /* segments that use the class */
    ptrdiff_t tiles[POINTS];        /* that use the point */
    ptrdiff_t v[POINTS], m[POINTS]; /* where the point begins */
} block;

/* v: of so many vectors of channels. */
static block block_at(const job *j, ptrdiff_t index, ptrdiff_t vectors)
{
    const shape *h = j->shape;
    const ptrdiff_t lanes = j->plan->kernels->lanes;
    block b;
    ptrdiff_t at[2] = {index / h->axis[1].blocks % h->axis[0].blocks, index % h->axis[1].blocks};
    b.image = index / (h->axis[0].blocks * h->axis[1].blocks) * h->images;
    b.images = fc_min(h->images, j->sweep->batch - b.image);
    for (int a = 0; a < 2; a++) {
        b.first[a] = at[a] * h->axis[a].block;
        b.last[a] = fc_min(b.first[a] + h->axis[a].block, h->axis[a].segments);
        for (int c = 0; c < CLASSES; c++)
            b.users[a][c] = segments_in(&h->axis[a], b.first[a], b.last[a], c);
    }
    ptrdiff_t v = 0, m = 0;
    for (int p = 0; p < POINTS; p++) {
        b.tiles[p] = b.images * b.users[0][fc_winograd_class(p / SIDE)] * b.users[1][fc_winograd_class(p % SIDE)];
        b.v[p] = v;
        b.m[p] = m;
        /* an odd number of cache lines, so that the points of a tile do not share sets */
        v += ((vectors * b.tiles[p]) | 1) * lanes;
        m += b.tiles[p] * h->width + lanes;
    }
    return b;
}

/* Where tile (image, down, across) of the block lies within each class of points, in units of `step`. */
static void slots_of(const block *b, ptrdiff_t image, ptrdiff_t down, ptrdiff_t across, ptrdiff_t step,
                     ptrdiff_t *slots)
{
    for (int i = 0; i < CLASSES; i++)
        for (int k = 0; k < CLASSES; k++)
            slots[i * CLASSES + k] =
                ((image * b->users[0][i] + down - b->first[0]) * b->users[1][k] + across - b->first[1]) * step;
}

/* ---- planning --------------------------------------------------------------------------------------------- */

static fc_sweep sweep_of(const fc_conv_plan *plan)
{
    return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, 0) : fc_sweep_forward(plan);
}

/* Estimated cycles of a group, from what the kernels take on AVX-512, where two vectors are multiplied and added in a cycle. */
static double cycles_of(const fc_conv_plan *plan, const fc_sweep *s, const axis *down, const axis *across)
{
    const double lanes = (double)plan->kernels->lanes, batch = (double)s->batch;
    const double in = ceil((double)s->channels / lanes), out = ceil((double)s->filters / lanes); /* vectors */
    const bool gradient = plan->problem.pass == FC_BACKWARD_WEIGHT;
    double product = 0, points = 0, tiles = batch * (double)(down->segments * across->segments);
    for (int i = 0; i < down->pairs; i++)
        for (int k = 0; k < across->pairs; k++) {
            double class_points = (i ? 2 : 4) * (k ? 2 : 4),
                   users = batch * (double)segments_in(down, 0, down->segments, i) *
                           (double)segments_in(across, 0, across->segments, k);
            points += class_points * users;
            product += class_points * (users > 5 || gradient ? users : 5) / 2; /* fewer rows wait for their own sums */
        }
    double filter = (3.5 * (2 * down->pairs + 2) * (2 * across->pairs + 2) + 75) * (gradient ? 1 : ceil(tiles / 256));
    double pixels = batch * (double)(down->length * across->length);
    return 4000 + (double)s->channels * out * ((gradient ? 1.25 : 1.08) * product + filter) +
           in * (5 * points + 10 * pixels) + out * (4.5 * points + 8 * pixels);
}

/* The segments of both axes that cost least. */
static double choose(const fc_conv_plan *plan, const fc_sweep *s, axis *chosen)
{
    double least = INFINITY;
    axis candidates[2][4];
    int counts[2] = {0, 0};
    for (int a = 0; a < 2; a++) {
        ptrdiff_t length = s->axis[a + 1].places, before = -1;
        const ptrdiff_t sixes[4] = {0, length / 6 - 1, length / 6, fc_ceil_div(length, 6)};
        for (int i = 0; i < 4; i++)
            if (sixes[i] > before)
                candidates[a][counts[a]++] = axis_of(length, before = sixes[i]);
    }
    for (int i = 0; i < counts[0]; i++)
        for (int k = 0; k < counts[1]; k++) {
            double cycles = cycles_of(plan, s, &candidates[0][i], &candidates[1][k]);
            if (cycles < least) {
                least = cycles;
                chosen[0] = candidates[0][i];
                chosen[1] = candidates[1][k];
            }
        }
    return least;
}

enum {
    KEPT_BYTES = 6 << 20,
    KEPT_BLOCKS = 4,
    KEPT_CHANNELS = 32,
    KEPT_TILES = 42
}; /* of a task that transforms filters; of a block */
enum { CHUNK = 32, BLOCK_BYTES = 704 << 10, MOST_TILES = 128 };

/* Whose transformed input fits into half of the workspace. */
static ptrdiff_t most_tiles(const fc_conv_plan *plan, ptrdiff_t channels)
{
    ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype);
    return (ptrdiff_t)(plan->limit / 2) / (POINTS * (channels + 2 * plan->kernels->lanes) * element);
}

/* Cuts the tiles into blocks of about `target`, in long stretches of rows: planes are best read and written so. */
static void cut(const fc_sweep *s, ptrdiff_t target, shape *h)
{
    ptrdiff_t all = h->axis[0].segments * h->axis[1].segments, of[2], batch = fc_max(s->batch, 1); /* also none is planned */
    h->images = all <= target ? fc_min(target / all, batch) : 1;
    h->images = fc_ceil_div(batch, fc_ceil_div(batch, h->images));
    of[1] = fc_min(h->axis[1].segments, target);
    of[0] = fc_min(h->axis[0].segments, fc_max(target / of[1], 1));
    for (int a = 0; a < 2; a++) {
        h->axis[a].block = fc_ceil_div(h->axis[a].segments, fc_ceil_div(h->axis[a].segments, of[a]));
        h->axis[a].blocks = fc_ceil_div(h->axis[a].segments, h->axis[a].block);
    }
    h->image_blocks = fc_ceil_div(batch, h->images);
    h->blocks = h->image_blocks * h->axis[0].blocks * h->axis[1].blocks;
    h->tiles = h->images * h->axis[0].block * h->axis[1].block;
}

/* What a worker needs to stage a block. */
static ptrdiff_t reach_of(const shape *h)
{
    ptrdiff_t reach = 1;
    for (int a = 0; a < 2; a++)
        reach *= h->axis[a].block * 2 * h->axis[a].pairs + 2;
    return reach;
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), lanes = kernels->lanes;
    shape h = {.vectors = fc_ceil_div(s->channels, lanes), .width = kernels->width[FC_NARROW]};
    h.panels = fc_ceil_div(s->filters, h.width);
    choose(plan, s, h.axis);
    h.points = (2 * h.axis[0].pairs + 2) * (2 * h.axis[1].pairs + 2);
    h.kept = h.points * (s->channels * h.width + lanes) * h.panels * element <= KEPT_BYTES;
    if (h.kept) {
        cut(s, fc_max(fc_min(BLOCK_BYTES / (h.points * h.vectors * lanes * element), KEPT_TILES), 1), &h);
        h.kept = h.blocks >= KEPT_BLOCKS; /* else panels make more tasks */
    }
    if (!h.kept)
        cut(s,
            fc_max(
                fc_min(fc_min(BLOCK_BYTES / (h.points * h.width * element), MOST_TILES), most_tiles(plan, s->channels)),
                1),
            &h);
    h.chunk = h.kept ? s->channels : fc_min(s->channels, fc_max(CHUNK, lanes));
    h.v = POINTS * ((h.vectors * h.tiles) | 1) * lanes;
    h.m = POINTS * (h.tiles * h.width + lanes);
    h.u = h.points * (h.chunk * h.width + lanes);
    h.stage = reach_of(&h) * lanes;
    h.taps = h.kept ? fc_min(s->channels, KEPT_CHANNELS) * TAPS * lanes : h.chunk * TAPS * lanes;
    h.round = h.kept ? h.blocks : fc_max(fc_min((ptrdiff_t)(plan->limit / 2) / (h.v * element), h.blocks), 1);
    h.worker = (size_t)(fc_round_up((h.m + h.stage + h.taps + (h.kept ? h.v : h.u)) * element, FC_ALIGNMENT) +
                        8 * FC_ALIGNMENT + fc_round_up(reach_of(&h) * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT));
    h.shared = (size_t)((h.kept ? h.panels * h.u : h.round * h.v) * element);
    return h;
}

enum { WAVE_BYTES = 16 << 20, TASK_CHANNELS = 32, TASK_FILTERS = 64 };

static shape shape_of_weights(const fc_conv_plan *plan, const fc_sweep *s, int threads)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), lanes = kernels->lanes,
                    room = (ptrdiff_t)(plan->limit / 8 * 3); /* for transformed tiles, and for sums */
    shape h = {.vectors = fc_ceil_div(s->channels, lanes), .width = kernels->width[FC_NARROW]};
    h.panels = fc_ceil_div(s->filters, h.width);
    choose(plan, s, h.axis);
    h.points = (2 * h.axis[0].pairs + 2) * (2 * h.axis[1].pairs + 2);
    cut(s, fc_max(fc_min(MOST_TILES, most_tiles(plan, s->channels + s->filters)), 1), &h);
    h.v = POINTS * ((h.vectors * h.tiles) | 1) * lanes;
    h.d = POINTS * ((h.panels * h.width / lanes * h.tiles) | 1) * lanes;
    ptrdiff_t panel_sums = h.points * (h.vectors * lanes + 1) * h.width * element,
              wave = h.panels * panel_sums > WAVE_BYTES ? room : fc_min(room, WAVE_BYTES);
    h.round = fc_max(fc_min(wave / ((h.v + h.d) * element), h.blocks), 1);
    h.range = h.round == h.blocks ? h.panels : fc_max(fc_min(room / panel_sums, h.panels), 1);
    h.task_vectors = fc_min(fc_max(TASK_CHANNELS / lanes, 1), h.vectors);
    h.task_panels = fc_min(fc_max(TASK_FILTERS / h.width, 1), h.range);
    for (;;) {
        h.tasks[0] = fc_ceil_div(h.vectors, h.task_vectors);
        h.tasks[1] = fc_ceil_div(h.range, h.task_panels);
        if (h.tasks[0] * h.tasks[1] >= 2 * threads || (h.task_panels == 1 && h.task_vectors == 1))
            break;
        if (h.task_panels > 1)
            h.task_panels = fc_ceil_div(h.task_panels, 2);
        else
            h.task_vectors = fc_ceil_div(h.task_vectors, 2);
    }
    h.sums = h.points * (h.task_vectors * lanes * h.task_panels * h.width + lanes);
    h.stage = reach_of(&h) * lanes;
    h.taps = h.task_vectors * lanes * TAPS * lanes;
    h.worker = (size_t)(fc_round_up((h.stage + h.taps + (h.round == h.blocks ? h.sums : 0)) * element, FC_ALIGNMENT) +
                        8 * FC_ALIGNMENT + fc_round_up(reach_of(&h) * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT));
    h.shared =
        (size_t)((h.round * (h.v + h.d) + (h.round == h.blocks ? 0 : h.tasks[0] * h.tasks[1] * h.sums)) * element);
    return h;
}

/* ---- the filters ------------------------------------------------------------------------------------------ */

enum { TURN_MOST = 16 }; /* lanes */

/* Transforms the filters of a panel, channels from first to last; to: [point][channel][width], points `pitch` apart. */
static void transform_filters(const job *j, ptrdiff_t panel, ptrdiff_t first, ptrdiff_t last, char *taps, char *to,
                              ptrdiff_t pitch)
{
    const fc_sweep *s = j->sweep;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t width = fc_min(h->width, fc_round_up(s->filters - panel * h->width, lanes));
    for (ptrdiff_t i = 0; i < width; i += lanes) {
        ptrdiff_t filter = panel * h->width + i, filters = fc_min(lanes, s->filters - filter);
        if (!j->turned) {
            const char *from = j->weight + ((j->group * s->filters + filter) * s->channels + first) * TAPS * element;
            kernels->planes_in(from, s->channels * TAPS, filters, (last - first) * TAPS, false, taps, NULL);
        } else
            for (ptrdiff_t c = first; c < last; c++) {
                char few[(TURN_MOST * TAPS + TURN_MOST) * sizeof(double)];
                const char *from = j->weight + ((j->group * s->channels + c) * s->filters + filter) * TAPS * element;
                kernels->copy(from, few, filters * TAPS);
                kernels->planes_in(few, TAPS, filters, TAPS, true, taps + (c - first) * TAPS * lanes * element, NULL);
            }
        kernels->winograd_filter(taps, j->turned, h->axis[0].pairs, h->axis[1].pairs, last - first, to + i * element,
                                 pitch, width);
    }
}

static void keep_filters(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    ptrdiff_t panel = index % h->panels, first = index / h->panels * KEPT_CHANNELS,
              last = fc_min(first + KEPT_CHANNELS, j->sweep->channels);
    ptrdiff_t width = fc_min(h->width, fc_round_up(j->sweep->filters - panel * h->width, lanes));
    transform_filters(j, panel, first, last, j->workspace + (size_t)worker * h->worker,
                      j->shared + (panel * h->u + first * width) * element, h->chunk * width + lanes);
}

/* ---- the input -------------------------------------------------------------------------------------------- */

/* Transforms vectors of channels from first to last of a block. */
static void transform_input(const job *j, const operand *x, const block *b, ptrdiff_t first, ptrdiff_t last,
                            char *stage, ptrdiff_t *offsets, char *v)
{
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const bool pixels = j->plan->problem.layout == FC_CHANNELS_LAST;
    const ptrdiff_t width = x->size[1], plane = x->size[0] * width, channels = x->groups * x->channels;
    ptrdiff_t begin[2], length[2], low[2], high[2]; /* of the region; and where the input lies in it */
    for (int a = 0; a < 2; a++) {
        begin[a] = segment_start(&h->axis[a], b->first[a]) + x->origin[a];
        length[a] = segment_start(&h->axis[a], b->last[a]) + x->origin[a] + x->margin - begin[a];
        low[a] = fc_min(fc_max(-begin[a], 0), length[a]);
        high[a] = fc_max(fc_min(x->size[a] - begin[a], length[a]), low[a]);
    }
    const ptrdiff_t rows = high[0] - low[0], columns = high[1] - low[1];
    const bool whole = columns == width; /* rows follow one another */
    for (ptrdiff_t i = 0, n = 0; i < (whole ? rows : 1); i++)
        for (ptrdiff_t k = 0; k < columns; k++)
            offsets[n++] = (i * length[1] + k) * lanes;
    if (rows < length[0] || columns < length[1])
        memset(stage, 0, (size_t)(length[0] * length[1] * lanes * element));
    for (ptrdiff_t n = 0; n < b->images; n++)
        for (ptrdiff_t c = first; c < last; c++) {
            ptrdiff_t channel = j->group * x->channels + c * lanes, count = fc_min(lanes, x->channels - c * lanes);
            ptrdiff_t pixel = (begin[0] + low[0]) * width + begin[1] + low[1];
            char *to = stage + (low[0] * length[1] + low[1]) * lanes * element;
            if (rows && columns) {
                if (pixels)
                    for (ptrdiff_t r = 0; r < rows; r++)
                        kernels->pixels_in(
                            x->data + (((b->image + n) * plane + pixel + r * width) * channels + channel) * element,
                            channels, count, columns, to + r * length[1] * lanes * element);
                else if (whole)
                    kernels->planes_in(x->data + (((b->image + n) * channels + channel) * plane + pixel) * element,
                                       plane, count, rows * columns, false, to, offsets);
                else
                    for (ptrdiff_t r = 0; r < rows; r++)
                        kernels->planes_in(
                            x->data + (((b->image + n) * channels + channel) * plane + pixel + r * width) * element,
                            plane, count, columns, false, to + r * length[1] * lanes * element, NULL);
            }
            ptrdiff_t table[POINTS], slots[SLOTS];
            for (int p = 0; p < POINTS; p++)
                table[p] = b->v[p] + (c - x->first) * b->tiles[p] * lanes;
            for (ptrdiff_t d = b->first[0]; d < b->last[0]; d++)
                for (ptrdiff_t a = b->first[1]; a < b->last[1]; a++) {
                    slots_of(b, n, d, a, lanes, slots);
                    ptrdiff_t at =
                        (segment_start(&h->axis[0], d) - segment_start(&h->axis[0], b->first[0])) * length[1] +
                        segment_start(&h->axis[1], a) - segment_start(&h->axis[1], b->first[1]);
                    x->transform(stage + at * lanes * element, length[1] * lanes, segment_pairs(&h->axis[0], d),
                                 segment_pairs(&h->axis[1], a), v, table, slots);
                }
        }
}

static operand operand_of(const fc_conv_plan *plan, const fc_sweep *s, const void *data)
{
    return (operand){data,
                     s->channels,
                     s->groups,
                     {s->axis[1].input, s->axis[2].input},
                     {s->axis[1].origin, s->axis[2].origin},
                     2,
                     0,
                     plan->kernels->winograd_input};
}

/* ---- products and output ---------------------------------------------------------------------------------- */

/* m (+)= the product of v and u over channels from first to last, at every point. */
static void multiply(const job *j, const block *b, ptrdiff_t panel_width, ptrdiff_t first, ptrdiff_t last,
                     const char *v, const char *u, ptrdiff_t pitch, char *m)
{
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t across = 2 * h->axis[1].pairs + 2;
    fc_winograd_tile_kernel *const *kernel = kernels->winograd_tile[panel_width / lanes - 1];
    for (ptrdiff_t i = 0; i < 2 * h->axis[0].pairs + 2; i++)
        for (ptrdiff_t k = 0; k < across; k++) {
            ptrdiff_t p = i * SIDE + k, tiles = b->tiles[p], parts = fc_ceil_div(tiles, kernels->rows[FC_NARROW]);
            fc_winograd_tile t = {.u = u + (i * across + k) * pitch * element,
                                  .pitch = tiles * lanes,
                                  .depth = last - first,
                                  .accumulate = first > 0};
            for (ptrdiff_t part = 0, tile = 0; part < parts; part++) {
                ptrdiff_t rows = (tiles - tile) / (parts - part);
                t.v = v + (b->v[p] + (first / lanes * tiles + tile) * lanes) * element;
                t.m = m + (b->m[p] + tile * panel_width) * element;
                kernel[rows - 1](&t);
                tile += rows;
            }
        }
}

static void finish(const job *j, const block *b, ptrdiff_t panel, ptrdiff_t panel_width, const char *m, char *stage)
{
    const fc_sweep *s = j->sweep;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t filters = s->groups * s->filters, width = h->axis[1].length, plane = h->axis[0].length * width;
    ptrdiff_t begin[2], length[2];
    for (int a = 0; a < 2; a++) {
        begin[a] = segment_start(&h->axis[a], b->first[a]);
        length[a] = fc_min(segment_start(&h->axis[a], b->last[a]), h->axis[a].length) - begin[a];
    }
    for (ptrdiff_t n = 0; n < b->images; n++)
        for (ptrdiff_t i = 0; i < panel_width; i += lanes) {
            ptrdiff_t filter = panel * h->width + i, count = fc_min(lanes, s->filters - filter);
            double bias[TURN_MOST] = {0};
            filter += j->group * s->filters;
            if (j->bias)
                kernels->copy(j->bias + filter * element, bias, count);
            fc_winograd_out o = {.pitch = length[1] * lanes, .bias = bias, .relu = j->plan->problem.relu};
            ptrdiff_t table[POINTS], slots[SLOTS];
            for (int p = 0; p < POINTS; p++)
                table[p] = b->m[p] + i;
            for (ptrdiff_t d = b->first[0]; d < b->last[0]; d++)
                for (ptrdiff_t a = b->first[1]; a < b->last[1]; a++) {
                    slots_of(b, n, d, a, panel_width, slots);
                    int down = segment_pairs(&h->axis[0], d), across = segment_pairs(&h->axis[1], a);
                    ptrdiff_t row = segment_start(&h->axis[0], d) - begin[0],
                              column = segment_start(&h->axis[1], a) - begin[1];
                    o.to = stage + (row * length[1] + column) * lanes * element;
                    o.rows = fc_min(2 * down, length[0] - row);
                    o.columns = fc_min(2 * across, length[1] - column);
                    kernels->winograd_output(m, table, slots, down, across, &o);
                }
            ptrdiff_t image = b->image + n, pixel = begin[0] * width + begin[1], run = length[1], runs = length[0];
            if (run == width) {
                run *= runs;
                runs = 1;
            }
            for (ptrdiff_t r = 0; r < runs; r++) {
                const char *from = stage + r * length[1] * lanes * element;
                if (j->plan->problem.layout == FC_CHANNELS_LAST)
                    kernels->pixels_out(from, run,
                                        j->out + ((image * plane + pixel + r * width) * filters + filter) * element,
                                        filters, count);
                else
                    kernels->planes_out(from, run,
                                        j->out + ((image * filters + filter) * plane + pixel + r * width) * element,
                                        plane, count);
            }
        }
}

/* ---- tasks ------------------------------------------------------------------------------------------------ */

typedef struct space {
    char *m, *stage, *taps, *own; /* own: v if kept, else u */
    ptrdiff_t *offsets;
} space;

static space space_of(const job *j, int worker)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    char *at = j->workspace + (size_t)worker * h->worker;
    space s;
    s.taps = fc_take(&at, h->taps * element);
    s.m = fc_take(&at, h->m * element);
    s.stage = fc_take(&at, h->stage * element);
    s.own = fc_take(&at, (h->kept ? h->v : h->u) * element);
    s.offsets = fc_take(&at, 0);
    return s;
}

/* Kept: a block, start to end. */
static void run_block(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    channels = j->sweep->channels;
    space s = space_of(j, worker);
    block b = block_at(j, index, h->vectors);
    transform_input(j, &j->in, &b, 0, h->vectors, s.stage, s.offsets, s.own);
    for (ptrdiff_t panel = 0; panel < h->panels; panel++) {
        ptrdiff_t width = fc_min(h->width, fc_round_up(j->sweep->filters - panel * h->width, lanes));
        multiply(j, &b, width, 0, channels, s.own, j->shared + panel * h->u * element, channels * width + lanes, s.m);
        finish(j, &b, panel, width, s.m, s.stage);
    }
}

enum { INPUT_VECTORS = 2 }; /* of a task */

/* Not kept: first every block's input, in pieces, */
static void run_input(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype),
                    pieces = fc_ceil_div(h->vectors, INPUT_VECTORS);
    space s = space_of(j, worker);
    block b = block_at(j, j->first_block + index / pieces, h->vectors);
    ptrdiff_t first = index % pieces * INPUT_VECTORS;
    transform_input(j, &j->in, &b, first, fc_min(first + INPUT_VECTORS, h->vectors), s.stage, s.offsets,
                    j->shared + index / pieces * h->v * element);
}

/* then every block with every panel. */
static void run_panel(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    channels = j->sweep->channels;
    space s = space_of(j, worker);
    ptrdiff_t of_round = index / h->panels, panel = index % h->panels;
    ptrdiff_t width = fc_min(h->width, fc_round_up(j->sweep->filters - panel * h->width, lanes));
    block b = block_at(j, j->first_block + of_round, h->vectors);
    for (ptrdiff_t c = 0; c < channels; c += h->chunk) {
        ptrdiff_t last = fc_min(c + h->chunk, channels), pitch = (last - c) * width + lanes;
        transform_filters(j, panel, c, last, s.taps, s.own, pitch);
        multiply(j, &b, width, c, last, j->shared + of_round * h->v * element, s.own, pitch, s.m);
    }
    finish(j, &b, panel, width, s.m, s.stage);
}

/* ---- the weight gradient ------------------------------------------------------------------------------------ */

/* dw = G' [ sum over tiles of (A dY A') . (B' x B) ] G: at every point a product of channels by filters that reduces over tiles.
 * d, a block's transformed dy: as v. The sums of a task: [point][channel][filter]. They stay with the worker if one round takes all blocks. */

static void run_gradient_input(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype),
                    pieces = fc_ceil_div(h->vectors, INPUT_VECTORS);
    char *at = j->workspace + (size_t)worker * h->worker, *stage = fc_take(&at, h->stage * element);
    block b = block_at(j, j->first_block + index / pieces, h->vectors);
    ptrdiff_t first = index % pieces * INPUT_VECTORS;
    transform_input(j, &j->in, &b, first, fc_min(first + INPUT_VECTORS, h->vectors), stage, fc_take(&at, 0),
                    j->shared + index / pieces * h->v * element);
}

static void run_gradient_output(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype),
                    pieces = fc_ceil_div(j->range_vectors, INPUT_VECTORS);
    char *at = j->workspace + (size_t)worker * h->worker, *stage = fc_take(&at, h->stage * element);
    block b = block_at(j, j->first_block + index / pieces, j->range_vectors);
    ptrdiff_t first = index % pieces * INPUT_VECTORS;
    transform_input(j, &j->dy, &b, j->range + first, j->range + fc_min(first + INPUT_VECTORS, j->range_vectors), stage,
                    fc_take(&at, 0), j->shared + (h->round * h->v + index / pieces * h->d) * element);
}

static void run_sums(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    across = 2 * h->axis[1].pairs + 2;
    const ptrdiff_t task_filters = h->task_panels * h->width / lanes; /* vectors */
    const ptrdiff_t c0 = index % h->tasks[0] * h->task_vectors, c1 = fc_min(c0 + h->task_vectors, h->vectors);
    const ptrdiff_t f0 = index / h->tasks[0] * task_filters, f1 = fc_min(f0 + task_filters, j->range_vectors);
    if (f0 >= f1)
        return;
    char *at = j->workspace + (size_t)worker * h->worker, *taps = fc_take(&at, h->taps * element);
    char *sums = h->round == h->blocks ? fc_take(&at, h->sums * element)
                                       : j->shared + (h->round * (h->v + h->d) + index * h->sums) * element;
    const ptrdiff_t columns = (f1 - f0) * lanes, pitch = (c1 - c0) * lanes * columns + lanes;
    for (ptrdiff_t n = 0; n < j->blocks; n++) {
        block b = block_at(j, j->first_block + n, h->vectors), d = block_at(j, j->first_block + n, j->range_vectors);
        const char *v = j->shared + n * h->v * element, *dv = j->shared + (h->round * h->v + n * h->d) * element;
        for (ptrdiff_t i = 0; i < 2 * h->axis[0].pairs + 2; i++)
            for (ptrdiff_t k = 0; k < across; k++) {
                ptrdiff_t p = i * SIDE + k, step = b.tiles[p] * lanes;
                fc_winograd_outer o = {
                    .dy_pitch = step, .tiles = b.tiles[p], .pitch = columns, .accumulate = j->first_block + n > 0};
                /* the next point's operands come from afar: each product fetches two vectors' worth of them */
                ptrdiff_t next = k + 1 < across ? p + 1 : fc_min(p / SIDE + 1, SIDE - 1) * SIDE, part = 0,
                          parts = (c1 - c0 + 1) / 2;
                for (ptrdiff_t c = c0; c < c1; c++)
                    for (ptrdiff_t f = f0; f < f1; f += 2, part++) {
                        o.x = v + (b.v[p] + c * step) * element;
                        o.next = part < parts ? v + (b.v[next] + (c0 + 2 * part) * b.tiles[next] * lanes) * element
                                 : f0 + 2 * (part - parts) < f1
                                     ? dv + (d.v[next] + (f0 + 2 * (part - parts)) * b.tiles[next] * lanes) * element
                                     : o.x;
                        o.dy = dv + (d.v[p] + f * step) * element;
                        o.s =
                            sums + ((i * across + k) * pitch + (c - c0) * lanes * columns + (f - f0) * lanes) * element;
                        kernels->winograd_outer[fc_min(f1 - f, 2) - 1](&o);
                    }
            }
    }
    if (j->first_block + j->blocks < h->blocks)
        return;
    const ptrdiff_t channels = j->in.channels, filters = j->dy.channels,
                    count = fc_min(c1 * lanes, channels) - c0 * lanes;
    for (ptrdiff_t f = f0; f < f1; f++) {
        ptrdiff_t filter = (j->range + f) * lanes;
        kernels->winograd_taps(sums + (f - f0) * lanes * element, pitch, columns, h->axis[0].pairs, h->axis[1].pairs,
                               count, taps);
        kernels->planes_out(taps, count * TAPS,
                            j->out + ((j->group * filters + filter) * channels + c0 * lanes) * TAPS * element,
                            channels * TAPS, fc_min(lanes, filters - filter));
    }
}

static void run_weights(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    fc_sweep s = fc_sweep_forward(plan);
    shape h = shape_of_weights(plan, &s, threads);
    const ptrdiff_t panel_vectors = h.width / plan->kernels->lanes,
                    vectors = fc_ceil_div(s.filters, plan->kernels->lanes);
    job j = {.plan = plan,
             .sweep = &s,
             .shape = &h,
             .in = operand_of(plan, &s, arrays->x),
             .out = arrays->weight,
             .workspace = space,
             .shared = space + (size_t)threads * h.worker};
    j.dy = (operand){arrays->y, s.filters, s.groups, {s.axis[1].places, s.axis[2].places},
                     {0, 0},    0,         0,        plan->kernels->winograd_spread};
    for (j.group = 0; j.group < s.groups; j.group++)
        for (j.range = 0; j.range < vectors; j.range += h.range * panel_vectors) {
            j.dy.first = j.range;
            j.range_vectors = fc_min(h.range * panel_vectors, vectors - j.range);
            for (j.first_block = 0; j.first_block < h.blocks; j.first_block += h.round) {
                j.blocks = fc_min(h.round, h.blocks - j.first_block);
                fc_parallel(threads, j.blocks * fc_ceil_div(h.vectors, INPUT_VECTORS), run_gradient_input, &j);
                fc_parallel(threads, j.blocks * fc_ceil_div(j.range_vectors, INPUT_VECTORS), run_gradient_output, &j);
                fc_parallel(threads, h.tasks[0] * h.tasks[1], run_sums, &j);
            }
        }
}

/* ---- the algorithm ---------------------------------------------------------------------------------------- */

static size_t workspace(const fc_conv_plan *plan, int threads);

static const char *decline(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->kernel[1] != 3 || p->kernel[2] != 3 || p->kernel[0] != 1 || p->input[0] != 1 || plan->output[0] != 1)
        return "it does two-dimensional kernels of 3x3 only";
    if (p->stride[1] != 1 || p->stride[2] != 1)
        return "its tiles need a stride of 1";
    if (p->dilation[1] != 1 || p->dilation[2] != 1)
        return "its tiles need a dilation of 1";
    ptrdiff_t x = p->pass == FC_BACKWARD_INPUT ? 0 : p->in_channels, y = p->pass == FC_FORWARD ? 0 : p->out_channels;
    if (most_tiles(plan, (x + y) / p->groups) < 1)
        return "one tile of so many channels is larger than its workspace may be";
    if (workspace(plan, 1) > plan->limit)
        return "the sums of its points are larger than its workspace may be";
    return NULL;
}

static double cost(const fc_conv_plan *plan)
{
    fc_sweep s = sweep_of(plan);
    axis chosen[2];
    return choose(plan, &s, chosen) * (double)s.groups / FC_NOMINAL_HERTZ;
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    fc_sweep s = sweep_of(plan);
    shape h = plan->problem.pass == FC_BACKWARD_WEIGHT ? shape_of_weights(plan, &s, threads) : shape_of(plan, &s);
    return h.worker * (size_t)threads + h.shared;
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    if (plan->problem.pass == FC_BACKWARD_WEIGHT) {
        run_weights(plan, arrays, space, threads);
        return;
    }
    fc_sweep s = sweep_of(plan);
    shape h = shape_of(plan, &s);
    bool forward = plan->problem.pass == FC_FORWARD;
    job j = {.plan = plan,
             .sweep = &s,
             .shape = &h,
             .in = operand_of(plan, &s, forward ? arrays->x : arrays->y),
             .weight = arrays->weight,
             .bias = forward ? arrays->bias : NULL,
             .out = forward ? arrays->y : arrays->x,
             .workspace = space,
             .shared = (char *)space + (size_t)threads * h.worker,
             .turned = !forward};
    for (j.group = 0; j.group < s.groups; j.group++) {
        if (h.kept) {
            fc_parallel(threads, h.panels * fc_ceil_div(s.channels, KEPT_CHANNELS), keep_filters, &j);
            fc_parallel(threads, h.blocks, run_block, &j);
            continue;
        }
        for (j.first_block = 0; j.first_block < h.blocks; j.first_block += h.round) {
            ptrdiff_t blocks = fc_min(h.round, h.blocks - j.first_block);
            fc_parallel(threads, blocks * fc_ceil_div(h.vectors, INPUT_VECTORS), run_input, &j);
            fc_parallel(threads, blocks * h.panels, run_panel, &j);
        }
    }
}

const fc_conv_algorithm fc_algorithm_winograd = {"winograd", decline, cost, workspace, run};

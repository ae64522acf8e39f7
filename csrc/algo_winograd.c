/* algo_winograd.c -- convolution with fewer multiplications: y = A' [(G g) . (B' x)] A on tiles of at most 8 points a side
 * (kernels/winograd_transforms.inc), summed over channels by one small matrix product per point.
 *
 * A stride of s makes s x s phases of the input, each with every s-th tap of the kernel and a stride of 1: they are so many more channels.
 * In the input gradient it makes phases of the output, so many more filters. A vector of filters belongs to one phase, and the phases follow one
 * another; or, where that would leave lanes empty, filters and their phases share vectors, all phases of a filter side by side.
 *
 * Each axis of the output is covered by segments of some sizes, so that few places are computed in vain; a tile is one segment down
 * by one across, and uses only its own points of the filter. A block is a rectangle of tiles of one image, or all tiles of several.
 *
 * v, a block's transformed input:  [point][channels / lanes][tile][lanes]
 * u, transformed filters:          [panel of filters][point][channel][width]
 * m, their products, of one panel: [point][tile][width]
 *
 * Kept: u is small, is computed first, and every block then makes its own v and meets all of u. Otherwise v is computed first, and every
 * (block, panel) makes the u that it needs, a chunk of channels at a time: less work than fetching it from memory.
 *
 * Few channels, channels first, are left to winograd_lines.c or winograd_images.c where that costs less. */
#include "winograd.h"

#include <math.h>

enum {
    TAPS = FC_WINOGRAD_TAPS * FC_WINOGRAD_TAPS,
    PHASES = 4 /* most, of an axis */
};

/* An axis of the problem. */
typedef struct side {
    ptrdiff_t places;
    int taps, phases;         /* taps of a phase */
    ptrdiff_t kernel, stride; /* of the problem */
    /* Coordinate of place p, tap t of a phase in the array that is read: origin + (p + t) * step + phase. */
    ptrdiff_t input, origin, step;
    /* Coordinate of place p of a phase in the array that is written: first + p * output_step + phase. */
    ptrdiff_t output, first, output_step;
} side;

typedef struct view {
    side side[2]; /* down, across */
    ptrdiff_t batch, groups;
    ptrdiff_t channels, filters; /* read and written, per group */
    ptrdiff_t in_phases, out_phases;
    ptrdiff_t depth;                      /* channels of all phases */
    enum { BLOCKED, INNER, OUTER } order; /* of the depth, see split_depth */
    ptrdiff_t vectors;                    /* of filters, of all phases */
    int void_point;                       /* see is_void */
    bool mixed;                           /* lanes of a vector of filters are of several phases */
    ptrdiff_t kernel;                     /* elements */
} view;

typedef struct shape {
    axis axis[2];                   /* down, across */
    ptrdiff_t images, image_blocks; /* of a block, at most */
    ptrdiff_t blocks, tiles;        /* tiles of a block, at most */
    ptrdiff_t points;
    ptrdiff_t vectors; /* of channels */
    ptrdiff_t width, panels;
    bool kept;
    ptrdiff_t chunk;    /* channels whose filters are transformed at once */
    ptrdiff_t abreast;  /* vectors of filters that share cache lines: they are transformed together */
    ptrdiff_t together; /* vectors of channels that are staged at once: the phases of one */
    ptrdiff_t inputs;   /* vectors of channels of a task that transforms them */
    ptrdiff_t v, u, m, stage, taps, split; /* elements */
    ptrdiff_t round;                       /* blocks whose v is held at once, unless kept */
    size_t worker, shared;                 /* bytes */
    /* of the weight gradient */
    ptrdiff_t range;                     /* panels whose sums are held at once */
    ptrdiff_t task_vectors, task_panels; /* of a task: vectors of channels, panels of filters */
    ptrdiff_t tasks[2];                  /* of a range, along channels and panels */
    ptrdiff_t parts;   /* of a task or a split, each some rows of points: more than one where these are few */
    bool own;          /* sums stay with the worker */
    ptrdiff_t d, sums; /* elements: dy of a block, sums of a task, or of a split */
    ptrdiff_t joined;  /* images of x that share a vector of channels */
    ptrdiff_t splits;  /* of the blocks, where all sums are few: each with sums of its own; else 0 */
} shape;

/* What is transformed tile by tile: x, or dy. */
typedef struct operand {
    const char *data;
    ptrdiff_t channels, groups;   /* channels of a group */
    ptrdiff_t depth;              /* of all phases */
    ptrdiff_t size[2], origin[2]; /* of its plane; of the first tile */
    ptrdiff_t step[2], phases[2];
    ptrdiff_t margin[2]; /* of a tile beyond its outputs */
    ptrdiff_t first;     /* vector of channels that lies first in v */
    ptrdiff_t joined;    /* images that share a vector */
    ptrdiff_t apart;     /* or that do so in the other operand: each first of those lies first, then each second */
    fc_winograd_in *const *transform;
} operand;

typedef struct job {
    const fc_conv_plan *plan;
    const view *view;
    const shape *shape;
    operand in, dy; /* dy: of the weight gradient */
    const char *weight, *bias;
    char *out, *workspace, *shared;
    bool turned, past; /* past: what is shared is written past the caches */
    ptrdiff_t group, first_block;
    int threads;
    ptrdiff_t blocks; /* of the round */
    /* of the weight gradient */
    ptrdiff_t range, range_vectors; /* first vector of filters, and how many */
} job;

/* ---- geometry --------------------------------------------------------------------------------------------- */

static view view_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    view v = {
        .batch = p->batch, .groups = p->groups, .in_phases = 1, .out_phases = 1, .kernel = 1, .void_point = !back};
    v.channels = (back ? p->out_channels : p->in_channels) / p->groups;
    v.filters = (back ? p->in_channels : p->out_channels) / p->groups;
    for (int a = 0; a < 2; a++) {
        const ptrdiff_t kernel = p->kernel[a + 1], stride = p->stride[a + 1], pad = p->pad_before[a + 1],
                        input = p->input[a + 1], output = plan->output[a + 1];
        side *s = &v.side[a];
        *s = (side){.taps = (int)fc_min(fc_ceil_div(kernel, stride), FC_WINOGRAD_TAPS + 1),
                    .phases = (int)fc_min(stride, PHASES + 1),
                    .kernel = kernel,
                    .stride = stride};
        if (back) { /* x at stride * i + phase - pad depends on dy at i - taps + 1 and after */
            ptrdiff_t first = fc_ceil_div(fc_max(pad - stride + 1, 0), stride);
            s->places = (input - 1 + pad) / stride + 1 - first;
            s->input = output;
            s->origin = first - (s->taps - 1);
            s->step = 1;
            s->output = input;
            s->first = first * stride - pad;
            s->output_step = stride;
        } else {
            s->places = s->output = output;
            s->input = input;
            s->origin = -pad;
            s->step = stride;
            s->output_step = 1;
        }
        *(back ? &v.out_phases : &v.in_phases) *= s->phases;
        v.kernel *= kernel;
    }
    v.depth = v.channels * v.in_phases;
    v.order = v.channels % plan->kernels->lanes == 0 ? BLOCKED : p->layout == FC_CHANNELS_LAST ? OUTER : INNER;
    v.vectors = v.out_phases * fc_ceil_div(v.filters, plan->kernels->lanes);
    const ptrdiff_t mixed = fc_ceil_div(v.out_phases * v.filters, plan->kernels->lanes);
    v.mixed = 4 * mixed <= 3 * v.vectors; /* else not worth the gathering of their weights */
    if (v.mixed)
        v.vectors = mixed;
    return v;
}

/* Which channel, of which phase, the c-th of the depth is: vectors of channels, each in all phases, one phase after another; or, where
 * channels do not fill vectors, what lies together in memory: all phases of a channel, or all channels of a phase. */
static void split_depth(const job *j, ptrdiff_t c, ptrdiff_t *channel, ptrdiff_t *phase)
{
    const view *w = j->view;
    const ptrdiff_t lanes = j->plan->kernels->lanes;
    switch (w->order) {
    case BLOCKED:
        *channel = c / (lanes * w->in_phases) * lanes + c % lanes;
        *phase = c / lanes % w->in_phases;
        break;
    case INNER:
        *channel = c / w->in_phases;
        *phase = c % w->in_phases;
        break;
    default:
        *channel = c % w->channels;
        *phase = c / w->channels;
    }
}

/* A phase may lack a tap: the first one if the kernel is turned, else the last. That tap alone makes the filter's transform at 0, or at
 * infinity, so there is nothing to multiply there. */
static bool lacks_tap(const side *s, ptrdiff_t phase) { return phase + (s->taps - 1) * s->stride >= s->kernel; }

static bool is_void(const view *w, ptrdiff_t phase, ptrdiff_t down, ptrdiff_t across)
{
    return (down == w->void_point && lacks_tap(&w->side[0], phase / w->side[1].phases)) ||
           (across == w->void_point && lacks_tap(&w->side[1], phase % w->side[1].phases));
}

static fc_winograd_size size_of(const shape *h, ptrdiff_t down, ptrdiff_t across)
{
    return (fc_winograd_size){.taps = {h->axis[0].taps, h->axis[1].taps},
                              .points = {segment_points(&h->axis[0], down), segment_points(&h->axis[1], across)},
                              .alike = {LEAST, has_pairs(&h->axis[0]) ? 2 : 1}};
}

typedef struct block {
    ptrdiff_t image, images;
    ptrdiff_t first[2], last[2];    /* segments */
    ptrdiff_t users[2][CLASSES];    /* segments that use the class */
    ptrdiff_t tiles[POINTS];        /* that use the point, */
    ptrdiff_t of_image[POINTS];     /* and of one image */
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
    b.images = fc_min(h->images, j->view->batch - b.image);
    for (int a = 0; a < 2; a++) {
        b.first[a] = at[a] * h->axis[a].block;
        b.last[a] = fc_min(b.first[a] + h->axis[a].block, h->axis[a].segments);
        for (int c = 0; c < CLASSES; c++)
            b.users[a][c] = segments_in(&h->axis[a], b.first[a], b.last[a], c);
    }
    ptrdiff_t v = 0, m = 0;
    for (int p = 0; p < POINTS; p++) {
        b.of_image[p] = b.users[0][fc_winograd_class(p / SIDE)] * b.users[1][fc_winograd_class(p % SIDE)];
        b.tiles[p] = b.images * b.of_image[p];
        b.v[p] = v;
        b.m[p] = m;
        /* an odd number of cache lines, so that the points of a tile do not share sets */
        v += ((vectors * b.tiles[p]) | 1) * lanes;
        m += b.tiles[p] * h->width + lanes;
    }
    return b;
}

/* A tile of every image of a block. */
typedef struct place {
    fc_winograd_size size;
    ptrdiff_t at[2];          /* of its outputs, from the block's first */
    ptrdiff_t slots[CLASSES]; /* where it lies among the tiles of a point, by its class across, of the first image */
} place;

/* Lists the tiles of an image; `step` elements lie between tiles of a point. Returns how many. */
static ptrdiff_t list_places(const shape *h, const block *b, ptrdiff_t step, place *list)
{
    place *p = list;
    for (ptrdiff_t down = b->first[0]; down < b->last[0]; down++)
        for (ptrdiff_t across = b->first[1]; across < b->last[1]; across++, p++) {
            p->size = size_of(h, down, across);
            p->at[0] = segment_start(&h->axis[0], down) - segment_start(&h->axis[0], b->first[0]);
            p->at[1] = segment_start(&h->axis[1], across) - segment_start(&h->axis[1], b->first[1]);
            for (int k = 0; k < CLASSES; k++)
                p->slots[k] = ((down - b->first[0]) * b->users[1][k] + across - b->first[1]) * step;
        }
    return p - list;
}

/* Where the tiles of an image of a block begin, of every point, after so many vectors; `begins`: b->v or b->m; `step` from tile to tile. */
static void find_points(const block *b, const ptrdiff_t *begins, ptrdiff_t vectors, ptrdiff_t image, ptrdiff_t step,
                        ptrdiff_t *table)
{
    for (int down = 0, i = 0; down < CLASSES; down++) {
        ptrdiff_t before[CLASSES];
        for (int c = 0; c < CLASSES; c++) {
            const int first = i * SIDE + fc_winograd_first(c);
            before[c] = (vectors * b->tiles[first] + image * b->of_image[first]) * step;
        }
        for (; i < fc_winograd_first(down + 1); i++, begins += SIDE, table += SIDE)
            FC_UNROLL for (int k = 0; k < SIDE; k++) table[k] = begins[k] + before[fc_winograd_class(k)];
    }
}

/* Of `images` of which `joined` share a vector, those that are the k-th there; and how many are earlier ones. */
static ptrdiff_t joined_count(ptrdiff_t images, ptrdiff_t joined, ptrdiff_t k)
{
    return images / joined + (k < images % joined);
}
static ptrdiff_t joined_before(ptrdiff_t images, ptrdiff_t joined, ptrdiff_t k)
{
    return images / joined * k + fc_min(k, images % joined);
}

/* ---- planning --------------------------------------------------------------------------------------------- */

/* Images whose channels share a vector, in a weight gradient. */
static ptrdiff_t joined_images(const fc_conv_plan *plan, const view *w)
{
    const bool side_by_side = plan->problem.layout == FC_CHANNELS_FIRST && w->groups == 1 && w->in_phases == 1;
    return side_by_side ? fc_max(plan->kernels->lanes / w->depth, 1) : 1;
}

/* How many segments have points of each class, up to the first that none has; returns how many classes that makes. */
static int list_users(const axis *a, double users[CLASSES])
{
    int classes = 0;
    for (; classes < CLASSES; classes++) {
        users[classes] = (double)segments_in(a, 0, a->segments, classes);
        if (users[classes] <= 0)
            break;
    }
    return classes;
}

/* Points of a class that are multiplied, in the mean of the phases: all but those that are void, which are of the first. */
static double points_in(const side *s, int class)
{
    int lacking = 0;
    for (int phase = 0; phase < s->phases; phase++)
        lacking += lacks_tap(s, phase);
    return fc_winograd_first(class + 1) - fc_winograd_first(class) - (class ? 0 : (double)lacking / s->phases);
}

/* Estimated cycles of a group, from what the kernels take on AVX-512, where two vectors are multiplied and added in a cycle. */
static double cycles_of(const fc_conv_plan *plan, const view *w, const axis *down, const axis *across)
{
    const double lanes = (double)plan->kernels->lanes, batch = (double)w->batch;
    const bool gradient = plan->problem.pass == FC_BACKWARD_WEIGHT;
    const double joined = gradient ? fmin((double)joined_images(plan, w), batch) : 1;
    const double in = ceil((double)w->depth / lanes), out = (double)w->vectors;
    /* the gradient's product has vectors of channels on one side, the others' has single ones */
    const double depth = gradient ? in * lanes : (double)w->depth;
    double product = 0, tiles = batch * (double)(down->segments * across->segments);
    double users_down[CLASSES], users_across[CLASSES];
    const int classes[2] = {list_users(down, users_down), list_users(across, users_across)};
    for (int i = 0; i < classes[0]; i++)
        for (int k = 0; k < classes[1]; k++) {
            const double class_points = points_in(&w->side[0], i) * points_in(&w->side[1], k),
                         users = batch * users_down[i] * users_across[k];
            product += class_points * (gradient ? users : fmax(users, 5)) / 2; /* few rows wait for their own sums */
        }
    const double points = batch * (double)(points_of(down) * points_of(across));
    const double each = down->taps + across->taps > 4 ? 3 : 2; /* two taps: fewer sums */
    double filter = (each * down->points * across->points + 60) * (gradient ? 1 : ceil(tiles / 256));
    double pixels = batch * (double)(down->length * across->length);
    return 4000 + depth * out * ((gradient ? 1.25 : 1.08) * product + filter) +
           in / joined * (5 * points + 10 * pixels) + out * (4.5 * points + 8 * pixels);
}

/* The segments of both axes that cost least. */
static double choose(const fc_conv_plan *plan, const view *w, axis *chosen)
{
    double least = INFINITY;
    axis candidates[2][AXES];
    int counts[2];
    for (int a = 0; a < 2; a++)
        counts[a] = list_axes(w->side[a].places, w->side[a].taps, candidates[a]);
    for (int i = 0; i < counts[0]; i++)
        for (int k = 0; k < counts[1]; k++) {
            double cycles = cycles_of(plan, w, &candidates[0][i], &candidates[1][k]);
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
    KEPT_CHANNELS = 32, /* of a task that transforms filters */
    KEPT_LEAST = 16,    /* tiles of a block: fewer would fetch all filters for little */
    KEPT_TILES = 42,    /* at most */
    MORE_BLOCKS = 3     /* than are needed, for threads to have as many of them */
};
#define LESS_EXCESS 0.9 /* than without, to make up for them */
enum {
    CHUNK = 32,
    BLOCK_BYTES = 704 << 10,
    MOST_TILES = 128,
    MOST_ABREAST = 2,
    NEAR_BYTES = 32 << 10 /* of all outputs that are staged at once */
};

/* Whose transformed input fits into half of the workspace. */
static ptrdiff_t most_tiles(const fc_conv_plan *plan, ptrdiff_t channels)
{
    ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype);
    return (ptrdiff_t)(plan->limit / 2) / (POINTS * (channels + 2 * plan->kernels->lanes) * element);
}

/* Cuts the tiles into blocks of about `target`, in long stretches of rows: planes are best read and written so. */
static void cut(const view *w, ptrdiff_t target, shape *h)
{
    ptrdiff_t all = h->axis[0].segments * h->axis[1].segments, of[2], batch = w->batch;
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
        reach *= h->axis[a].block * outputs_of(h->axis[a].taps, h->axis[a].points) + h->axis[a].taps - 1;
    return reach;
}

/* Elements between the planes of phases: an odd number of cache lines. */
static ptrdiff_t split_pitch(ptrdiff_t reach) { return fc_round_up(reach, 16) | 16; }

static void stage_together(const fc_conv_plan *plan, const view *w, shape *h)
{
    const bool all = w->order == BLOCKED && plan->problem.layout == FC_CHANNELS_FIRST;
    h->together = all ? w->in_phases : 1;
    h->inputs = fc_max(h->together, 2);
}

/* Of a worker, which holds so many elements besides its lists. */
static size_t worker_bytes(const shape *h, ptrdiff_t elements, ptrdiff_t element)
{
    return fc_worker_pitch(fc_round_up(elements * element, FC_ALIGNMENT) + 9 * FC_ALIGNMENT +
                           fc_round_up(h->together * reach_of(h) * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT) +
                           fc_round_up(h->tiles * (ptrdiff_t)sizeof(place), FC_ALIGNMENT));
}

/* How well so many tasks are shared: the work of the busiest thread over its part. */
static double excess(ptrdiff_t tasks, int threads)
{
    return (double)(fc_ceil_div(tasks, threads) * threads) / (double)tasks;
}

/* Cuts the tiles so that every thread has about as many blocks and panels to do; smaller blocks transform more filters. How they are cut
 * does not change a bit of the result. */
static void cut_evenly(const view *w, ptrdiff_t target, int threads, shape *h)
{
    cut(w, target, h);
    shape best = *h;
    for (ptrdiff_t blocks = h->blocks + 1; blocks <= h->blocks + MORE_BLOCKS; blocks++) {
        shape other = *h;
        cut(w, fc_max(w->batch * h->axis[0].segments * h->axis[1].segments / blocks, 1), &other);
        if (other.tiles <= h->tiles && other.tiles >= KEPT_LEAST &&
            excess(other.blocks * h->panels, threads) < LESS_EXCESS * excess(best.blocks * h->panels, threads))
            best = other;
    }
    *h = best;
}

static shape shape_of(const fc_conv_plan *plan, const view *w, int threads)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), lanes = kernels->lanes;
    shape h = {.vectors = fc_ceil_div(w->depth, lanes), .width = kernels->width[FC_NARROW]};
    h.panels = fc_ceil_div(w->vectors * lanes, h.width);
    stage_together(plan, w, &h);
    choose(plan, w, h.axis);
    h.points = h.axis[0].points * h.axis[1].points;
    h.kept = h.points * (w->depth * h.width + lanes) * h.panels * element <= KEPT_BYTES;
    if (h.kept) {
        const ptrdiff_t most = fc_max(fc_min(BLOCK_BYTES / (h.points * h.vectors * lanes * element), KEPT_TILES), 1),
                        image = h.axis[0].segments * h.axis[1].segments;
        cut(w, image > most && 4 * image <= 5 * most ? image : most, &h); /* a whole image, if it is little more */
        h.kept = h.blocks >= KEPT_BLOCKS && h.tiles >= KEPT_LEAST;        /* else panels make more tasks */
    }
    if (!h.kept)
        cut_evenly(
            w,
            fc_max(fc_min(fc_min(BLOCK_BYTES / (h.points * h.width * element), MOST_TILES), most_tiles(plan, w->depth)),
                   1),
            threads, &h);
    h.chunk = h.kept ? w->depth : fc_min(w->depth, fc_max(CHUNK, lanes * (w->order == BLOCKED ? w->in_phases : 1)));
    h.abreast =
        w->in_phases * w->out_phases == 1 && lanes * element < FC_ALIGNMENT ? fc_min(h.width / lanes, MOST_ABREAST) : 1;
    h.v = POINTS * ((h.vectors * h.tiles) | 1) * lanes;
    h.m = POINTS * (h.tiles * h.width + lanes);
    h.u = h.points * (h.chunk * h.width + lanes);
    h.stage = fc_max(w->out_phases > 1 ? 2 : h.abreast, h.together) * reach_of(&h) * lanes;
    h.split = w->in_phases * w->out_phases == 1 ? 0 : 2 * split_pitch(reach_of(&h)) * lanes + FC_SLACK;
    h.taps = (h.kept ? fc_min(w->depth, KEPT_CHANNELS) : h.chunk) * w->kernel * h.abreast * lanes;
    h.round = h.kept ? h.blocks : fc_max(fc_min((ptrdiff_t)(plan->limit / 2) / (h.v * element), h.blocks), 1);
    h.worker = worker_bytes(&h, h.m + h.stage + h.split + h.taps + (h.kept ? h.v : h.u), element);
    h.shared = (size_t)((h.kept ? h.panels * h.u : h.round * h.v) * element);
    return h;
}

enum {
    WAVE_BYTES = 16 << 20,
    LEAST_WAVE = 1 << 20,
    LEAST_TILES = 48,
    FEW_INPUTS = 8, /* tasks of a thread */
    TASK_CHANNELS = 32,
    TASK_FILTERS = 64,
    MOST_TOGETHER = 4,       /* phases of a vector of channels in one task */
    SPLITS = 16,             /* at most: every split's sums are added */
    SPLIT_BYTES = 288 << 10, /* of its sums, at most, to stay in the second-level cache, */
    SPLIT_BLOCKS = 4,        /* and of its blocks, at least */
    /* where fc_l3_is_far, what threads write for one another costs more than the sums' way there and back (Xeon of 2 MiB: 1.1 to 1.7
     * times as fast on two threads, 0.93 to 1.06 on one) */
    FAR_SPLIT_BYTES = 9 << 19,
    FAR_SPLIT_BLOCKS = 2,
};

/* Into how many parts with sums of their own the blocks are split; 0: not at all. It depends on the number of threads only where the sum
 * does not. */
static ptrdiff_t splits_of(const fc_conv_plan *plan, const shape *h, ptrdiff_t sums, ptrdiff_t room, int threads)
{
    const bool far = sums > SPLIT_BYTES;
    if (sums > (fc_l3_is_far(plan) ? FAR_SPLIT_BYTES : SPLIT_BYTES))
        return 0;
    const ptrdiff_t most = fc_min(SPLITS, room / sums);
    ptrdiff_t splits = fc_min(most, h->blocks / (far ? FAR_SPLIT_BLOCKS : SPLIT_BLOCKS));
    while (splits & (splits - 1)) /* a power of two, for threads to have as many of them */
        splits &= splits - 1;
    if (splits > 1)
        return splits;
    /* a single block each: their sums are added up one after another anyway */
    return far && threads > 1 && h->joined == 1 && h->blocks > 1 && h->blocks <= most ? h->blocks : 0;
}

/* Elements for the finished taps of `depth` channels, and, if phases are brought together, for that, and a list of where they come from. */
static ptrdiff_t taps_room(const view *w, ptrdiff_t depth, ptrdiff_t lanes, ptrdiff_t element)
{
    const ptrdiff_t taps = depth * w->side[0].taps * w->side[1].taps;
    return taps * lanes + (w->in_phases > 1 ? taps * lanes + taps * (ptrdiff_t)sizeof(ptrdiff_t) / element : 0);
}

static shape shape_of_weights(const fc_conv_plan *plan, const view *w, int threads)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), lanes = kernels->lanes,
                    room = (ptrdiff_t)(plan->limit / 8 * 3); /* for transformed tiles, and for sums */
    shape h = {.vectors = fc_ceil_div(w->depth, lanes), .width = kernels->width[FC_NARROW]};
    h.panels = fc_ceil_div(w->vectors * lanes, h.width);
    stage_together(plan, w, &h);
    choose(plan, w, h.axis);
    h.joined = joined_images(plan, w);
    h.points = h.axis[0].points * h.axis[1].points;
    const ptrdiff_t tile = h.points * (h.vectors * lanes + h.panels * h.width) * element,
                    panel_sums = h.points * (h.vectors * lanes + 1) * h.width * element, sums = h.panels * panel_sums;
    /* what is summed up stays in the second-level cache: so may what it is summed up from */
    const ptrdiff_t some =
        2 * sums > LEAST_WAVE ? MOST_TILES : fc_max(fc_min(MOST_TILES, LEAST_WAVE / tile), LEAST_TILES);
    cut(w, fc_max(fc_min(some, most_tiles(plan, w->depth + w->filters)), 1), &h);
    h.v = POINTS * ((h.vectors * h.tiles) | 1) * lanes;
    h.d = POINTS * ((h.panels * h.width / lanes * h.tiles) | 1) * lanes;
    h.stage = h.together * reach_of(&h) * lanes;
    h.split = w->in_phases * w->out_phases == 1 ? 0 : split_pitch(reach_of(&h)) * lanes + FC_SLACK;
    h.splits = splits_of(plan, &h, sums, room, threads);
    if (h.splits) {
        h.parts = fc_min(fc_ceil_div(threads, h.splits), h.axis[0].points);
        h.range = h.panels;
        h.sums = h.points * (h.vectors * lanes * w->vectors * lanes + lanes);
        h.taps = taps_room(w, lanes, lanes, element);
        h.worker = worker_bytes(&h, h.stage + h.split + h.taps + h.v + h.d + 2 * lanes, element);
        h.shared = (size_t)(h.splits * h.sums * element);
        return h;
    }
    const ptrdiff_t wave =
        sums > WAVE_BYTES ? room : fc_min(room, fc_min(fc_max(4 * sums, LEAST_WAVE * threads), WAVE_BYTES));
    h.round = fc_max(fc_min(wave / ((h.v + h.d) * element), h.blocks), 1);
    h.range = h.round == h.blocks ? h.panels : fc_max(fc_min(room / panel_sums, h.panels), 1);
    if (threads > 1 && h.round * fc_ceil_div(h.vectors + w->vectors, h.inputs) < FEW_INPUTS * threads)
        h.inputs = h.together; /* for threads to have about as much to do */
    /* the phases of a vector of channels stay together, if they are few: their taps are written as one stretch */
    const ptrdiff_t unit = w->order == BLOCKED && w->in_phases <= MOST_TOGETHER ? w->in_phases : 1;
    h.task_vectors = fc_min(fc_max(TASK_CHANNELS / lanes / unit, 1) * unit, h.vectors);
    h.task_panels =
        fc_min(fc_max(TASK_FILTERS / fc_max(h.task_vectors * lanes / TASK_CHANNELS, 1) / h.width, 1), h.range);
    for (;;) {
        h.tasks[0] = fc_ceil_div(h.vectors, h.task_vectors);
        h.tasks[1] = fc_ceil_div(h.range, h.task_panels);
        if (h.tasks[0] * h.tasks[1] >= 2 * threads || (h.task_panels == 1 && h.task_vectors == unit))
            break;
        if (h.task_panels > 1)
            h.task_panels = fc_ceil_div(h.task_panels, 2);
        else
            h.task_vectors = fc_ceil_div(h.task_vectors / unit, 2) * unit;
    }
    const ptrdiff_t tasks = h.tasks[0] * h.tasks[1];
    h.parts = threads > tasks ? fc_min(fc_ceil_div(2 * threads, tasks), h.axis[0].points) : 1;
    h.own = h.round == h.blocks && h.parts == 1;
    h.sums = h.points * (h.task_vectors * lanes * h.task_panels * h.width + lanes);
    h.taps = taps_room(w, h.task_vectors * lanes, lanes, element);
    h.worker = worker_bytes(&h, h.stage + h.split + h.taps + (h.own ? h.sums : 0), element);
    h.shared = (size_t)((h.round * (h.v + h.d) + (h.own ? 0 : tasks * h.sums)) * element);
    return h;
}

/* ---- what a worker has -------------------------------------------------------------------------------------- */

typedef struct space {
    char *m, *stage, *split, *taps, *own; /* own: v if kept, else u */
    ptrdiff_t *offsets;
    place *places;
} space;

static space space_of(const job *j, int worker)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    char *at = j->workspace + (size_t)worker * h->worker;
    space s;
    s.taps = fc_take(&at, h->taps * element);
    s.m = fc_take(&at, h->m * element);
    s.stage = fc_take(&at, h->stage * element);
    s.split = fc_take(&at, h->split * element);
    /* the gradient's splits: v and d */
    s.own = fc_take(&at, (h->splits ? h->v + h->d + 2 * lanes : h->kept ? h->v : h->u) * element);
    s.offsets = fc_take(&at, h->together * reach_of(h) * (ptrdiff_t)sizeof(ptrdiff_t));
    s.places = fc_take(&at, 0);
    return s;
}

/* ---- the filters ------------------------------------------------------------------------------------------ */

enum { MOST_LANES = 16, TURN_AHEAD = 4 /* channels */ };

/* Filters of a panel, whole vectors. */
static ptrdiff_t panel_width(const job *j, ptrdiff_t panel)
{
    const ptrdiff_t lanes = j->plan->kernels->lanes, width = j->shape->width;
    return fc_min(width, j->view->vectors * lanes - panel * width);
}

/* Kernel index of each tap of a phase, or -1. */
static void list_taps(const view *w, ptrdiff_t phase, bool turned, ptrdiff_t *at)
{
    const side *down = &w->side[0], *across = &w->side[1];
    const ptrdiff_t first[2] = {phase / across->phases, phase % across->phases};
    for (int i = 0; i < down->taps; i++)
        for (int k = 0; k < across->taps; k++) {
            ptrdiff_t r = first[0] + (turned ? down->taps - 1 - i : i) * down->stride,
                      c = first[1] + (turned ? across->taps - 1 - k : k) * across->stride;
            *at++ = r < down->kernel && c < across->kernel ? r * across->kernel + c : -1;
        }
}

/* Weights of one vector of filters, `count` channels from the first on, as [channel][tap][lanes]. */
static void load_taps(const job *j, ptrdiff_t filter, ptrdiff_t filters, ptrdiff_t channel, ptrdiff_t count, char *taps)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    if (!j->turned) {
        kernels->planes_in(j->weight + ((j->group * w->filters + filter) * w->channels + channel) * w->kernel * element,
                           w->channels * w->kernel, filters, count * w->kernel, false, taps, NULL);
        return;
    }
    if (w->kernel == 9 && filters == lanes) {
        kernels->nines_in(j->weight + ((j->group * w->channels + channel) * w->filters + filter) * w->kernel * element,
                          w->filters * w->kernel, count, taps);
        return;
    }
    const ptrdiff_t next =
        w->filters * w->kernel * element; /* far apart: too short stretches for the hardware to foresee */
    for (ptrdiff_t n = 0; n < count; n++, taps += w->kernel * lanes * element) {
        const char *from =
            j->weight + ((j->group * w->channels + channel + n) * w->filters + filter) * w->kernel * element;
        if (n + TURN_AHEAD < count)
            for (ptrdiff_t i = 0; i < filters * w->kernel * element; i += FC_ALIGNMENT)
                __builtin_prefetch(from + TURN_AHEAD * next + i);
        char few[(MOST_LANES * MOST_LANES + MOST_LANES) * sizeof(double)];
        if (w->kernel < lanes) { /* copied to where whole vectors can be read */
            kernels->copy(from, few, filters * w->kernel);
            from = few;
        }
        kernels->planes_in(from, w->kernel, filters, w->kernel, w->kernel < lanes, taps, NULL);
    }
}

/* The same of a vector of mixed phases, as [channel][tap of a phase][lanes]; at: where the taps of a channel lie. */
static void gather_taps(const job *j, ptrdiff_t vector, ptrdiff_t channel, ptrdiff_t count, char *taps, ptrdiff_t *at)
{
    const view *w = j->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    each = w->side[0].taps * w->side[1].taps;
    ptrdiff_t index[TAPS * MOST_LANES]; /* in a channel's weights, or -1 */
    for (ptrdiff_t l = 0; l < lanes; l++) {
        const ptrdiff_t filter = (vector * lanes + l) / w->out_phases;
        list_taps(w, (vector * lanes + l) % w->out_phases, true, at);
        for (ptrdiff_t t = 0; t < each; t++)
            index[t * lanes + l] = filter < w->filters && at[t] >= 0 ? filter * w->kernel + at[t] : -1;
    }
    for (ptrdiff_t t = 0; t < each; t++)
        at[t] = t * lanes;
    const char *from = j->weight + (j->group * w->channels + channel) * w->filters * w->kernel * element;
    for (ptrdiff_t n = 0; n < count; n++, from += w->filters * w->kernel * element)
        for (ptrdiff_t i = 0; i < each * lanes; i++, taps += element)
            if (element == 4)
                *(float *)taps = index[i] < 0 ? 0 : ((const float *)from)[index[i]];
            else
                *(double *)taps = index[i] < 0 ? 0 : ((const double *)from)[index[i]];
}

/* Weights that will be loaded: rows of so many bytes. */
typedef struct stretch {
    const char *at;
    ptrdiff_t pitch, rows, bytes;
} stretch;

/* About those of a panel from `first` of the depth on, or, past its end, of the next panel, if there is one. */
static stretch weights_ahead(const job *j, ptrdiff_t panel, ptrdiff_t next, ptrdiff_t first, ptrdiff_t count)
{
    const view *w = j->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    if (first >= w->depth) {
        first = 0;
        panel = next;
    }
    if (panel < 0 || w->mixed) /* mixed ones are few, and every panel's the same */
        return (stretch){0};
    const ptrdiff_t filter = panel * j->shape->width / w->out_phases, channel = first / w->in_phases,
                    filters = fc_min(j->shape->width / w->out_phases, w->filters - filter),
                    channels = fc_min(count / w->in_phases, w->channels - channel);
    if (j->turned)
        return (stretch){j->weight + ((j->group * w->channels + channel) * w->filters + filter) * w->kernel * element,
                         w->filters * w->kernel * element, channels, filters * w->kernel * element};
    return (stretch){j->weight + ((j->group * w->filters + filter) * w->channels + channel) * w->kernel * element,
                     w->channels * w->kernel * element, filters, channels * w->kernel * element};
}

/* Part i of `parts` of a stretch. */
static void fetch(const stretch *s, ptrdiff_t i, ptrdiff_t parts)
{
    for (ptrdiff_t r = i * s->rows / parts; r < (i + 1) * s->rows / parts; r++)
        for (ptrdiff_t k = 0; k < s->bytes; k += FC_ALIGNMENT)
            __builtin_prefetch(s->at + r * s->pitch + k, 0, 2);
}

/* The points of so many channels' filters: of one vector, or of several whose taps lie `apart`. */
static void filter_points(const job *j, const char *from, const ptrdiff_t *at, ptrdiff_t from_step, ptrdiff_t count,
                          ptrdiff_t vectors, ptrdiff_t apart, char *to, ptrdiff_t pitch, ptrdiff_t to_step)
{
    const shape *h = j->shape;
    const fc_winograd_filter f = {
        .size = {.taps = {h->axis[0].taps, h->axis[1].taps}, .points = {h->axis[0].points, h->axis[1].points}},
        .from = from,
        .at = at,
        .from_step = from_step,
        .from_vector = apart,
        .count = count,
        .vectors = vectors,
        .to = to,
        .pitch = pitch,
        .to_step = to_step,
        .streamed = j->past && h->kept};
    j->plan->kernels->winograd_filter(&f);
}

/* Transforms the filters of a panel, channels from first to last; to: [point][channel][width], points `pitch` apart. */
static void transform_filters(const job *j, ptrdiff_t panel, ptrdiff_t first, ptrdiff_t last, char *taps, char *to,
                              ptrdiff_t pitch)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t width = panel_width(j, panel);
    const ptrdiff_t step = w->order == INNER ? w->in_phases : 1; /* between channels of a phase */
    for (ptrdiff_t i = 0; i < width; i += h->abreast * lanes) {
        const ptrdiff_t vector = (panel * h->width + i) / lanes, vectors = fc_min(h->abreast, (width - i) / lanes);
        if (w->mixed) {
            ptrdiff_t at[TAPS];
            gather_taps(j, vector, first, last - first, taps, at);
            filter_points(j, taps, at, h->axis[0].taps * h->axis[1].taps * lanes, last - first, 1, 0, to + i * element,
                          pitch, width);
            continue;
        }
        ptrdiff_t loaded = -1, loaded_count = 0;
        for (ptrdiff_t c = first, c1; c < last; c = c1) { /* channels that follow one another */
            ptrdiff_t channel, phase, at[TAPS];
            split_depth(j, c, &channel, &phase);
            if (w->order == INNER)
                c1 = last;
            else if (w->order == BLOCKED && w->in_phases > 1)
                c1 = fc_min(last, c + lanes - c % lanes);
            else
                c1 = fc_min(last, c + w->channels - channel);
            const ptrdiff_t count = w->order == INNER ? fc_ceil_div(c1, step) - channel : c1 - c,
                            apart = count * w->kernel * lanes;
            for (ptrdiff_t v = 0; v < vectors && (channel != loaded || count != loaded_count); v++) {
                const ptrdiff_t filter = (vector + v) / w->out_phases * lanes;
                load_taps(j, filter, fc_min(lanes, w->filters - filter), channel, count, taps + v * apart * element);
            }
            loaded = channel;
            loaded_count = count;
            for (ptrdiff_t n = c; n < fc_min(c + step, c1); n++) { /* the first channel of each phase */
                ptrdiff_t own;
                split_depth(j, n, &own, &phase);
                list_taps(w, j->turned ? vector % w->out_phases : phase, j->turned, at);
                for (int t = 0; t < h->axis[0].taps * h->axis[1].taps; t++)
                    at[t] *= lanes;
                filter_points(j, taps + (own - channel) * w->kernel * lanes * element, at, w->kernel * lanes,
                              fc_ceil_div(c1 - n, step), vectors, apart, to + (i + (n - first) * width) * element,
                              pitch, step * width);
            }
        }
    }
}

static void keep_filters(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    ptrdiff_t panel = index % h->panels, first = index / h->panels * KEPT_CHANNELS,
              last = fc_min(first + KEPT_CHANNELS, j->view->depth), width = panel_width(j, panel);
    transform_filters(j, panel, first, last, j->workspace + (size_t)worker * h->worker,
                      j->shared + (panel * h->u + first * width) * element, h->chunk * width + lanes);
}

/* ---- the input -------------------------------------------------------------------------------------------- */

/* The part of an operand that a block needs, in places and taps. */
typedef struct region {
    ptrdiff_t begin[2], length[2];
} region;

/* One vector of channels of an image, or of several that share it, as [row][column][lanes]. */
static void stage_vector(const job *j, const operand *x, const region *at, ptrdiff_t image, ptrdiff_t images,
                         ptrdiff_t vector, char *stage, const ptrdiff_t *offsets)
{
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t width = x->size[1], plane = x->size[0] * width, channels = x->groups * x->channels;
    const ptrdiff_t channel = j->group * x->channels + vector * lanes,
                    count = fc_min(lanes, images * x->depth - vector * lanes);
    ptrdiff_t low[2], high[2]; /* where the input lies in the region */
    for (int a = 0; a < 2; a++) {
        low[a] = fc_min(fc_max(-at->begin[a], 0), at->length[a]);
        high[a] = fc_max(fc_min(x->size[a] - at->begin[a], at->length[a]), low[a]);
    }
    const ptrdiff_t rows = high[0] - low[0], columns = high[1] - low[1],
                    pixel = (at->begin[0] + low[0]) * width + at->begin[1] + low[1];
    char *to = stage + (low[0] * at->length[1] + low[1]) * lanes * element;
    if (!rows || !columns)
        return;
    if (j->plan->problem.layout == FC_CHANNELS_LAST)
        for (ptrdiff_t r = 0; r < rows; r++)
            kernels->pixels_in(x->data + ((image * plane + pixel + r * width) * channels + channel) * element, channels,
                               count, columns, to + r * at->length[1] * lanes * element);
    else if (columns == width) /* rows follow one another */
        kernels->planes_in(x->data + ((image * channels + channel) * plane + pixel) * element, plane, count,
                           rows * columns, false, to, columns < at->length[1] ? offsets : NULL);
    else
        for (ptrdiff_t r = 0; r < rows; r++)
            kernels->planes_in(x->data + ((image * channels + channel) * plane + pixel + r * width) * element, plane,
                               count, columns, false, to + r * at->length[1] * lanes * element, NULL);
}

/* The part of a plane that its phases in a region take, and where each of its places goes: to its phase, each phase as if it
 * were an image of its own. */
static region list_phases(const operand *x, const region *at, ptrdiff_t lanes, ptrdiff_t *offsets)
{
    const ptrdiff_t area = at->length[0] * at->length[1];
    ptrdiff_t before[2]; /* places that lie in the padding */
    region w;
    for (int a = 0; a < 2; a++) {
        const ptrdiff_t start = x->origin[a] + at->begin[a] * x->step[a];
        w.begin[a] = fc_max(start, 0);
        w.length[a] = fc_max(fc_min(start + at->length[a] * x->step[a], x->size[a]) - w.begin[a], 0);
        before[a] = w.begin[a] - start;
    }
    for (ptrdiff_t r = 0; r < w.length[0]; r++) {
        const ptrdiff_t y = before[0] + r, row = y % x->step[0] * x->step[1] * area + y / x->step[0] * at->length[1];
        for (ptrdiff_t c = 0, phase = before[1] % x->step[1], to = before[1] / x->step[1]; c < w.length[1]; c++) {
            *offsets++ = (row + phase * area + to) * lanes;
            if (++phase == x->step[1]) {
                phase = 0;
                to++;
            }
        }
    }
    return w;
}

/* The same of a vector of channels in all phases: whole planes are read as they lie. */
static void stage_phases(const job *j, const operand *x, const region *seen, ptrdiff_t image, ptrdiff_t vector,
                         char *stage, const ptrdiff_t *offsets)
{
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t width = x->size[1], plane = x->size[0] * width, channels = x->groups * x->channels,
                    channel = j->group * x->channels + vector * lanes;
    ptrdiff_t run = seen->length[1], runs = seen->length[0];
    if (run == width) { /* rows follow one another */
        run *= runs;
        runs = 1;
    }
    const char *from =
        x->data + ((image * channels + channel) * plane + seen->begin[0] * width + seen->begin[1]) * element;
    for (ptrdiff_t r = 0; run && r < runs; r++)
        kernels->planes_in(from + r * width * element, plane, lanes, run, false, stage, offsets + r * run);
}

/* The same of the phases of an image: channels first, split into planes of their own; */
static void stage_phase_planes(const job *j, const operand *x, const region *at, ptrdiff_t image, ptrdiff_t vector,
                               char *split, char *stage)
{
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t count = fc_min(lanes, x->depth - vector * lanes), rows = at->length[0], columns = at->length[1],
                    pitch = split_pitch(rows * columns);
    for (ptrdiff_t lane = 0; lane < count; lane++) {
        ptrdiff_t channel, phase;
        split_depth(j, vector * lanes + lane, &channel, &phase);
        channel += (image * x->groups + j->group) * x->channels;
        const ptrdiff_t top = x->origin[0] + at->begin[0] * x->step[0] + phase / x->phases[1],
                        left = x->origin[1] + at->begin[1] * x->step[1] + phase % x->phases[1];
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t row = top + r * x->step[0];
            char *to = split + (lane * pitch + r * columns) * element;
            if (row < 0 || row >= x->size[0])
                kernels->zero(to, columns);
            else
                fc_stage_row(kernels, element, x->data + (channel * x->size[0] + row) * x->size[1] * element, left,
                             x->step[1], x->size[1], to, columns);
        }
    }
    kernels->planes_in(split, pitch, count, rows * columns, true, stage, NULL);
}

/* channels last, a stretch of channels of one phase at a time. */
static void stage_phase_pixels(const job *j, const operand *x, const region *at, ptrdiff_t image, ptrdiff_t vector,
                               char *stage)
{
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    channels = x->groups * x->channels;
    memset(stage, 0, (size_t)(at->length[0] * at->length[1] * lanes * element));
    for (ptrdiff_t lane = 0, count; lane < fc_min(lanes, x->depth - vector * lanes); lane += count) {
        ptrdiff_t channel, phase;
        split_depth(j, vector * lanes + lane, &channel, &phase);
        count = fc_min(fc_min(lanes, x->depth - vector * lanes) - lane, x->channels - channel);
        const ptrdiff_t start[2] = {x->origin[0] + at->begin[0] * x->step[0] + phase / x->phases[1],
                                    x->origin[1] + at->begin[1] * x->step[1] + phase % x->phases[1]};
        ptrdiff_t low[2], high[2];
        for (int a = 0; a < 2; a++) {
            low[a] = fc_min(start[a] < 0 ? fc_ceil_div(-start[a], x->step[a]) : 0, at->length[a]);
            high[a] = start[a] < x->size[a]
                          ? fc_max(fc_min(fc_ceil_div(x->size[a] - start[a], x->step[a]), at->length[a]), low[a])
                          : low[a];
        }
        for (ptrdiff_t r = low[0]; r < high[0] && low[1] < high[1]; r++) {
            const char *from =
                x->data +
                (((image * x->size[0] + start[0] + r * x->step[0]) * x->size[1] + start[1] + low[1] * x->step[1]) *
                     channels +
                 j->group * x->channels + channel) *
                    element;
            char *to = stage + ((r * at->length[1] + low[1]) * lanes + lane) * element;
            if (count == lanes)
                kernels->pixels_in(from, x->step[1] * channels, count, high[1] - low[1], to);
            else
                for (ptrdiff_t i = low[1]; i < high[1];
                     i++, from += x->step[1] * channels * element, to += lanes * element)
                    memcpy(to, from, (size_t)(count * element));
        }
    }
}

/* Transforms vectors of channels from first to last of a block. */
static void transform_input(const job *j, const operand *x, const block *b, ptrdiff_t first, ptrdiff_t last,
                            const space *s, char *v)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    const bool phased = x->phases[0] * x->phases[1] > 1, pixels = j->plan->problem.layout == FC_CHANNELS_LAST;
    const ptrdiff_t together = phased ? h->together : 1;
    region at;
    bool whole = true; /* no padding */
    for (int a = 0; a < 2; a++) {
        at.begin[a] = segment_start(&h->axis[a], b->first[a]);
        at.length[a] = segment_start(&h->axis[a], b->last[a]) + x->margin[a] - at.begin[a];
        const ptrdiff_t start = x->origin[a] + at.begin[a] * x->step[a];
        whole = whole && start >= 0 && start + at.length[a] * x->step[a] <= x->size[a];
        at.begin[a] += phased ? 0 : x->origin[a];
    }
    const ptrdiff_t area = at.length[0] * at.length[1] * lanes * element, places = list_places(h, b, lanes, s->places);
    if (!whole)
        memset(s->stage, 0, (size_t)(together * area));
    if (!phased && !pixels) {
        const ptrdiff_t columns = fc_min(x->size[1], at.begin[1] + at.length[1]) - fc_max(at.begin[1], 0),
                        rows = fc_min(x->size[0], at.begin[0] + at.length[0]) - fc_max(at.begin[0], 0);
        if (columns == x->size[1] && columns < at.length[1]) /* rows follow one another, but not where they go */
            for (ptrdiff_t i = 0, n = 0; i < rows; i++)
                for (ptrdiff_t k = 0; k < columns; k++)
                    s->offsets[n++] = (i * at.length[1] + k) * lanes;
    }
    const region seen = together > 1 ? list_phases(x, &at, lanes, s->offsets) : at;
    for (ptrdiff_t n = 0; n < b->images; n += x->joined)
        for (ptrdiff_t c = first; c < last; c += together) {
            if (!phased)
                stage_vector(j, x, &at, b->image + n, fc_min(x->joined, b->images - n), c, s->stage, s->offsets);
            else if (pixels)
                stage_phase_pixels(j, x, &at, b->image + n, c, s->stage);
            else if (together > 1)
                stage_phases(j, x, &seen, b->image + n, c / together, s->stage, s->offsets);
            else
                stage_phase_planes(j, x, &at, b->image + n, c, s->split, s->stage);
            const ptrdiff_t among =
                x->apart > 1 ? joined_before(b->images, x->apart, n % x->apart) + n / x->apart : n / x->joined;
            for (ptrdiff_t k = 0; k < together; k++) {
                ptrdiff_t table[POINTS];
                find_points(b, b->v, c + k - x->first, among, lanes, table);
                for (const place *p = s->places; p < s->places + places; p++)
                    x->transform[j->past && !h->kept && !h->splits](
                        s->stage + k * area + (p->at[0] * at.length[1] + p->at[1]) * lanes * element,
                        at.length[1] * lanes, &p->size, v, table, p->slots);
            }
        }
}

static operand operand_of(const fc_conv_plan *plan, const view *w, const void *data)
{
    operand x = {.data = data,
                 .channels = w->channels,
                 .groups = w->groups,
                 .depth = w->depth,
                 .joined = 1,
                 .apart = 1,
                 .transform = plan->kernels->winograd_input};
    for (int a = 0; a < 2; a++) {
        x.size[a] = w->side[a].input;
        x.origin[a] = w->side[a].origin;
        x.step[a] = w->side[a].step;
        x.phases[a] = w->in_phases == 1 ? 1 : w->side[a].phases;
        x.margin[a] = w->side[a].taps - 1;
    }
    return x;
}

/* ---- products and output ---------------------------------------------------------------------------------- */

/* The kernel for a panel's vectors of filters at a point, or NULL if all are void there; *skipped: 1 if the first of two is. Channels begin with
 * vector `phase` of them; the tile gets to know which of their phases are void. */
static fc_winograd_tile_kernel *const *kernel_at(const job *j, ptrdiff_t vector, ptrdiff_t vectors, ptrdiff_t phase,
                                                 ptrdiff_t down, ptrdiff_t across, fc_winograd_tile *tile,
                                                 ptrdiff_t *skipped)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    if (w->in_phases > 1 && w->order == BLOCKED && vectors == 2) {
        tile->phases = (int)w->in_phases;
        for (int n = 0; n < tile->phases; n++)
            tile->void_phases |= (unsigned)is_void(w, (phase + n) % w->in_phases, down, across) << n;
        if (tile->void_phases)
            return kernels->winograd_tile_phased;
    } else if (w->out_phases > 1 && !w->mixed) {
        const bool first = is_void(w, vector % w->out_phases, down, across),
                   last = is_void(w, (vector + vectors - 1) % w->out_phases, down, across);
        *skipped = first;
        if (first && last)
            return NULL;
        if (first || last)
            return kernels->winograd_tile_half;
    }
    return kernels->winograd_tile[vectors - 1];
}

/* m (+)= the product of v and u, of a panel, over channels from first to last, at every point; `ahead` is fetched meanwhile, unless NULL. */
static void multiply(const job *j, const block *b, ptrdiff_t panel, ptrdiff_t first, ptrdiff_t last, const char *v,
                     const char *u, ptrdiff_t pitch, const stretch *ahead, char *m)
{
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes;
    const ptrdiff_t across = h->axis[1].points, width = panel_width(j, panel), vector = panel * h->width / lanes;
    const bool phased = j->view->in_phases * j->view->out_phases > 1;
    fc_winograd_tile_kernel *const *const whole = kernels->winograd_tile[width / lanes - 1];
    for (ptrdiff_t i = 0; i < h->axis[0].points; i++)
        for (ptrdiff_t k = 0; k < across; k++) {
            ptrdiff_t p = i * SIDE + k, tiles = b->tiles[p], parts = fc_ceil_div(tiles, kernels->rows[FC_NARROW]);
            fc_winograd_tile t = {.pitch = tiles * lanes, .depth = last - first, .accumulate = first > 0};
            ptrdiff_t skipped = 0;
            fc_winograd_tile_kernel *const *kernel = whole;
            if (phased) {
                kernel = kernel_at(j, vector, width / lanes, first / lanes, i, k, &t, &skipped);
                if (first == 0 && (kernel == NULL || kernel == kernels->winograd_tile_half))
                    memset(m + b->m[p] * element, 0, (size_t)(tiles * width * element));
                if (kernel == NULL)
                    parts = 0;
            }
            t.u = u + ((i * across + k) * pitch + skipped * lanes) * element;
            /* what comes from afar, for the next point: u if it is kept, else v */
            const ptrdiff_t next = k + 1 < across ? p + 1 : fc_min(i + 1, SIDE - 1) * SIDE;
            t.next_pitch = h->kept ? lanes * lanes : b->tiles[next] * lanes;
            const ptrdiff_t least = tiles / fc_max(parts, 1),
                            larger = tiles - parts * least; /* the last ones have a row more */
            for (ptrdiff_t part = 0, tile = 0; part < parts; part++) {
                const ptrdiff_t rows = least + (part >= parts - larger);
                t.v = v + (b->v[p] + (first / lanes * tiles + tile) * lanes) * element;
                t.m = m + (b->m[p] + tile * width + skipped * lanes) * element;
                t.next = h->kept ? (const char *)t.u + (pitch + part * t.depth * lanes) * element
                                 : v + (b->v[next] + (first / lanes * b->tiles[next] + tile) * lanes) * element;
                kernel[rows - 1](&t);
                tile += rows;
            }
            if (ahead)
                fetch(ahead, i * across + k, h->points);
        }
}

/* The places of a region that a phase has in the output: from low to high; and where low lies there. */
static void clip(const side *s, ptrdiff_t begin, ptrdiff_t length, ptrdiff_t phase, ptrdiff_t *low, ptrdiff_t *high,
                 ptrdiff_t *at)
{
    const ptrdiff_t start = s->first + begin * s->output_step + phase;
    *low = start < 0; /* the first place's first phases may lie before the output */
    *high = start < s->output ? fc_min(fc_ceil_div(s->output - start, s->output_step), length) : 0;
    *at = start + *low * s->output_step;
}

/* A filter's places of some phases side by side, each from a plane of its own, to the rows of the output that are theirs. room: for the four
 * phases of a row. */
static void put_rows(const job *j, const region *r, ptrdiff_t image, ptrdiff_t filter, ptrdiff_t phase, int phases,
                     const char *const *planes, char *room)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    const bool pixels = j->plan->problem.layout == FC_CHANNELS_LAST;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), filters = w->groups * w->filters,
                    height = w->side[0].output, width = w->side[1].output, pixel = pixels ? filters : 1,
                    step = w->side[1].output_step * pixel;
    char *out =
        j->out +
        (pixels ? image * height * width * filters + filter : (image * filters + filter) * height * width) * element;
    ptrdiff_t top, bottom, row, left[PHASES], column[PHASES], count[PHASES];
    clip(&w->side[0], r->begin[0], r->length[0], phase / w->side[1].phases, &top, &bottom, &row);
    int first = 0; /* the others of a place may lie before the output */
    for (int i = 0; i < phases; i++) {
        ptrdiff_t right;
        clip(&w->side[1], r->begin[1], r->length[1], phase % w->side[1].phases + i, &left[i], &right, &column[i]);
        count[i] = right - left[i];
        first = column[i] < column[first] ? i : first;
    }
    for (; top < bottom; top++, row += w->side[0].output_step) {
        const char *from[PHASES];
        ptrdiff_t of[PHASES];
        for (int i = 0; i < phases; i++) {
            const int k = (first + i) % phases;
            from[i] = planes[k] + (top * r->length[1] + left[k]) * element;
            of[i] = count[k];
        }
        char *to = out + (row * width + column[first]) * pixel * element;
        if (phases == 4) {
            char *second = room + 2 * r->length[1] * element;
            kernels->interleave(from[0], from[2], room, of[0] + of[2]);
            kernels->interleave(from[1], from[3], second, of[1] + of[3]);
            kernels->interleave(room, second, to, of[0] + of[1] + of[2] + of[3]);
        } else if (phases == 2)
            kernels->interleave(from[0], from[1], to, of[0] + of[1]);
        else if (element == 4)
            for (ptrdiff_t i = 0; i < of[0]; i++)
                ((float *)to)[i * step] = ((const float *)from[0])[i];
        else
            for (ptrdiff_t i = 0; i < of[0]; i++)
                ((double *)to)[i * step] = ((const double *)from[0])[i];
    }
}

/* An image's places of two vectors, the same filters in phases that alternate across: whole rows of the output. */
static void put_pair(const job *j, const region *r, ptrdiff_t image, ptrdiff_t vector, const char *stage)
{
    const view *w = j->view;
    const side *s = &w->side[1];
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    plane = w->side[0].output * s->output, filter = vector / w->out_phases * lanes,
                    start = s->first + 2 * r->begin[1], low = fc_max(-start, 0),
                    high = fc_min(2 * r->length[1], s->output - start);
    char *out = j->out + ((image * w->groups + j->group) * w->filters + filter) * plane * element;
    ptrdiff_t top, bottom, row;
    clip(&w->side[0], r->begin[0], r->length[0], vector % w->out_phases / 2, &top, &bottom, &row);
    for (; top < bottom; top++, row += w->side[0].output_step)
        j->plan->kernels->planes_out(stage + (top * 2 * r->length[1] + low) * lanes * element, high - low,
                                     out + (row * s->output + start + low) * element, plane,
                                     fc_min(lanes, w->filters - filter));
}

/* An image's places of one vector of filters of one phase. */
static void put_phase(const job *j, const region *r, ptrdiff_t image, ptrdiff_t vector, const char *stage, char *split)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    area = r->length[0] * r->length[1], plane = split_pitch(area) * element,
                    phase = vector % w->out_phases, filter = vector / w->out_phases * lanes,
                    count = fc_min(lanes, w->filters - filter);
    kernels->planes_out(stage, area, split, plane / element, count);
    for (ptrdiff_t c = 0; c < count; c++) {
        const char *planes[] = {split + c * plane};
        put_rows(j, r, image, j->group * w->filters + filter + c, phase, 1, planes, NULL);
    }
}

/* The same of a vector of mixed phases. */
static void put_mixed(const job *j, const region *r, ptrdiff_t image, ptrdiff_t vector, const char *stage, char *split)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    area = r->length[0] * r->length[1], plane = split_pitch(area) * element, across = w->side[1].phases,
                    count = fc_min(lanes, w->filters * w->out_phases - vector * lanes);
    const bool woven = j->plan->problem.layout == FC_CHANNELS_FIRST && across % 2 == 0;
    kernels->planes_out(stage, area, split, plane / element, count);
    for (ptrdiff_t l = 0, phases; l < count; l += phases) {
        const ptrdiff_t filter = (vector * lanes + l) / w->out_phases, phase = (vector * lanes + l) % w->out_phases;
        phases = woven && phase % across == 0 && l + across <= count ? across : 1;
        const char *planes[PHASES];
        for (ptrdiff_t i = 0; i < phases; i++)
            planes[i] = split + (l + i) * plane;
        put_rows(j, r, image, j->group * w->filters + filter, phase, (int)phases, planes, split + lanes * plane);
    }
}

/* The same of a vector of filters of one phase, channels last. */
static void put_phase_pixels(const job *j, const region *r, ptrdiff_t image, ptrdiff_t vector, const char *stage)
{
    const view *w = j->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    filters = w->groups * w->filters, width = w->side[1].output, phase = vector % w->out_phases,
                    filter = vector / w->out_phases * lanes;
    ptrdiff_t top, bottom, row, left, right, column;
    clip(&w->side[0], r->begin[0], r->length[0], phase / w->side[1].phases, &top, &bottom, &row);
    clip(&w->side[1], r->begin[1], r->length[1], phase % w->side[1].phases, &left, &right, &column);
    for (; top < bottom; top++, row += w->side[0].output_step)
        j->plan->kernels->pixels_out(
            stage + (top * r->length[1] + left) * lanes * element, right - left,
            j->out + (((image * w->side[0].output + row) * width + column) * filters + j->group * w->filters + filter) *
                         element,
            w->side[1].output_step * filters, fc_min(lanes, w->filters - filter));
}

/* The same to the whole output. */
static void put(const job *j, const region *at, ptrdiff_t image, ptrdiff_t filter, ptrdiff_t count, const char *stage)
{
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    filters = j->view->groups * j->view->filters, width = j->shape->axis[1].length,
                    plane = j->shape->axis[0].length * width, pixel = at->begin[0] * width + at->begin[1];
    ptrdiff_t run = at->length[1], runs = at->length[0];
    if (run == width) {
        run *= runs;
        runs = 1;
    }
    for (ptrdiff_t r = 0; r < runs; r++) {
        const char *from = stage + r * at->length[1] * lanes * element;
        if (j->plan->problem.layout == FC_CHANNELS_LAST)
            kernels->pixels_out(from, run, j->out + ((image * plane + pixel + r * width) * filters + filter) * element,
                                filters, count);
        else
            kernels->planes_out(from, run, j->out + ((image * filters + filter) * plane + pixel + r * width) * element,
                                plane, count);
    }
}

/* The outputs of so many vectors of filters of a panel, the first from `column` on, each from m to its [row][column][lanes], or, woven, all to
 * [row][column][vector][lanes]; bias: theirs. */
static void stage_output(const job *j, const block *b, const region *r, ptrdiff_t image, ptrdiff_t column,
                         ptrdiff_t vectors, bool woven, ptrdiff_t panel_width, const place *list, ptrdiff_t places,
                         const char *bias, const char *m, char *stage)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    step = woven ? vectors * lanes : lanes, apart = woven ? lanes : r->length[0] * r->length[1] * lanes;
    fc_winograd_out o = {.pitch = r->length[1] * step, .woven = woven, .relu = j->plan->problem.relu};
    ptrdiff_t table[POINTS];
    find_points(b, b->m, 0, image, panel_width, table);
    for (const place *p = list; p < list + places; p++) {
        o.rows = fc_min(outputs_of(p->size.taps[0], p->size.points[0]), r->length[0] - p->at[0]);
        o.columns = fc_min(outputs_of(p->size.taps[1], p->size.points[1]), r->length[1] - p->at[1]);
        for (ptrdiff_t v = 0; v < vectors; v++) { /* they share cache lines */
            o.bias = bias + v * lanes * element;
            o.to = stage + (v * apart + (p->at[0] * r->length[1] + p->at[1]) * step) * element;
            j->plan->kernels->winograd_output(m + (column + v * lanes) * element, table, p->slots, &p->size, &o);
        }
    }
}

static void finish(const job *j, const block *b, ptrdiff_t panel, ptrdiff_t panel_width, const space *s)
{
    const view *w = j->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    const bool pixels = j->plan->problem.layout == FC_CHANNELS_LAST, phased = w->out_phases > 1;
    region r;
    for (int a = 0; a < 2; a++) {
        r.begin[a] = segment_start(&j->shape->axis[a], b->first[a]);
        r.length[a] = fc_min(segment_start(&j->shape->axis[a], b->last[a]), j->shape->axis[a].length) - r.begin[a];
    }
    const ptrdiff_t area = r.length[0] * r.length[1], places = list_places(j->shape, b, panel_width, s->places);
    const bool near = area * lanes * element * j->shape->abreast <= NEAR_BYTES;
    const bool paired = phased && !w->mixed && !pixels && w->side[1].phases == 2;
    const ptrdiff_t together = paired ? 2 : !phased && near ? j->shape->abreast : 1;
    for (ptrdiff_t n = 0; n < b->images; n++)
        for (ptrdiff_t i = 0; i < panel_width; i += together * lanes) {
            const ptrdiff_t vector = (panel * j->shape->width + i) / lanes, filter = vector * lanes,
                            vectors = fc_min(together, (panel_width - i) / lanes);
            char bias[MOST_ABREAST * MOST_LANES * sizeof(double)] = {0};
            if (j->bias)
                j->plan->kernels->copy(j->bias + (j->group * w->filters + filter) * element, bias,
                                       fc_min(vectors * lanes, w->filters - filter));
            stage_output(j, b, &r, n, i, vectors, paired, panel_width, s->places, places, bias, s->m, s->stage);
            if (!phased)
                for (ptrdiff_t v = 0; v < vectors; v++)
                    put(j, &r, b->image + n, j->group * w->filters + filter + v * lanes,
                        fc_min(lanes, w->filters - filter - v * lanes), s->stage + v * area * lanes * element);
            else if (w->mixed)
                put_mixed(j, &r, b->image + n, vector, s->stage, s->split);
            else if (pixels)
                put_phase_pixels(j, &r, b->image + n, vector, s->stage);
            else if (paired)
                put_pair(j, &r, b->image + n, vector, s->stage);
            else
                put_phase(j, &r, b->image + n, vector, s->stage, s->split);
        }
}

/* ---- tasks ------------------------------------------------------------------------------------------------ */

/* Kept: a block, start to end. */
static void run_block(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    channels = j->view->depth;
    space s = space_of(j, worker);
    block b = block_at(j, index, h->vectors);
    transform_input(j, &j->in, &b, 0, h->vectors, &s, s.own);
    for (ptrdiff_t panel = 0; panel < h->panels; panel++) {
        ptrdiff_t width = panel_width(j, panel);
        multiply(j, &b, panel, 0, channels, s.own, j->shared + panel * h->u * element, channels * width + lanes, NULL,
                 s.m);
        finish(j, &b, panel, width, &s);
    }
}

/* Not kept: first every block's input, in pieces, */
static void run_input(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype),
                    pieces = fc_ceil_div(h->vectors, h->inputs);
    space s = space_of(j, worker);
    block b = block_at(j, j->first_block + index / pieces, h->vectors);
    ptrdiff_t first = index % pieces * h->inputs;
    transform_input(j, &j->in, &b, first, fc_min(first + h->inputs, h->vectors), &s,
                    j->shared + index / pieces * h->v * element);
}

/* then every block with every panel. */
static void run_panel(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    channels = j->view->depth;
    space s = space_of(j, worker);
    ptrdiff_t of_round = index / h->panels, panel = index % h->panels;
    ptrdiff_t width = panel_width(j, panel);
    const ptrdiff_t tasks = j->blocks * h->panels, after = fc_task_after(j->threads, tasks, index);
    block b = block_at(j, j->first_block + of_round, h->vectors);
    for (ptrdiff_t c = 0; c < channels; c += h->chunk) {
        ptrdiff_t last = fc_min(c + h->chunk, channels), pitch = (last - c) * width + lanes;
        transform_filters(j, panel, c, last, s.taps, s.own, pitch);
        const stretch ahead = weights_ahead(j, panel, after < tasks ? after % h->panels : -1, last, last - c);
        multiply(j, &b, panel, c, last, j->shared + of_round * h->v * element, s.own, pitch, &ahead, s.m);
    }
    finish(j, &b, panel, width, &s);
}

/* ---- the weight gradient ------------------------------------------------------------------------------------ */

/* dw = G' [ sum over tiles of (A dY A') . (B' x B) ] G: at every point a product of channels by filters that reduces over tiles.
 * Few channels leave a vector room for those of several images, which lie side by side in memory, too: the first of each vector go with some
 * of dy's images, the second with others, and so on.
 * d, a block's transformed dy: as v. The sums of a task: [point][channel][filter]. They stay with the worker if one round takes all blocks. */

static void run_gradient_tiles(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), of_x = fc_ceil_div(h->vectors, h->inputs),
                    pieces = of_x + fc_ceil_div(j->range_vectors, h->inputs), n = index / pieces;
    const space s = space_of(j, worker);
    const bool dy = index % pieces >= of_x;
    const ptrdiff_t vectors = dy ? j->range_vectors : h->vectors,
                    first = (index % pieces - (dy ? of_x : 0)) * h->inputs, last = fc_min(first + h->inputs, vectors),
                    skipped = dy ? j->range : 0;
    const block b = block_at(j, j->first_block + n, vectors);
    transform_input(j, dy ? &j->dy : &j->in, &b, skipped + first, skipped + last, &s,
                    j->shared + (dy ? h->round * h->v + n * h->d : n * h->v) * element);
}

/* Sums that one task adds up, or finishes. */
typedef struct share {
    ptrdiff_t c0, c1, f0, f1; /* vectors of channels, of filters */
    ptrdiff_t columns, pitch; /* elements: of a channel, of a point */
    char *sums;
} share;

/* Of `count` channels of the depth from `first` on, with all their phases: where each of the kernel's taps lies among the finished ones. False if
 * they are not whole channels side by side. */
static bool list_kernels(const job *j, ptrdiff_t first, ptrdiff_t count, ptrdiff_t *offsets)
{
    const view *w = j->view;
    const ptrdiff_t lanes = j->plan->kernels->lanes, of_tile = w->side[0].taps * w->side[1].taps,
                    unit = w->in_phases * (w->order == BLOCKED ? lanes : 1);
    if (count < w->depth && (w->order == OUTER || first % unit || count % unit))
        return false;
    ptrdiff_t at[TAPS];
    for (ptrdiff_t n = 0; n < count; n++) {
        ptrdiff_t channel, phase;
        split_depth(j, first + n, &channel, &phase);
        list_taps(w, phase, false, at);
        for (ptrdiff_t t = 0; t < of_tile; t++)
            if (at[t] >= 0)
                offsets[(channel - first / w->in_phases) * w->kernel + at[t]] = (n * of_tile + t) * lanes;
    }
    return true;
}

/* The sums of a share, finished, to where they belong. */
static void put_weights(const job *j, const share *s, char *taps)
{
    const view *w = j->view;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    start = s->c0 * lanes, count = fc_min(s->c1 * lanes, w->depth) - start,
                    of_tile = h->axis[0].taps * h->axis[1].taps, pitch = w->channels * w->kernel;
    const fc_winograd_size size = {.taps = {h->axis[0].taps, h->axis[1].taps},
                                   .points = {h->axis[0].points, h->axis[1].points}};
    char *together = taps + count * of_tile * lanes * element;
    ptrdiff_t *offsets = (ptrdiff_t *)(together + count * of_tile * lanes * element);
    const bool whole = w->in_phases > 1 && list_kernels(j, start, count, offsets);
    for (ptrdiff_t f = s->f0; f < s->f1; f++) {
        const ptrdiff_t first = (j->range + f) * lanes, filters = fc_min(lanes, w->filters - first);
        char *to = j->out + (j->group * w->filters + first) * pitch * element;
        kernels->winograd_taps(s->sums + (f - s->f0) * lanes * element, s->pitch, s->columns, &size, count, taps);
        if (w->in_phases == 1) {
            kernels->planes_out(taps, count * of_tile, to + start * w->kernel * element, pitch, filters);
            continue;
        }
        if (whole) {
            const ptrdiff_t n = count / w->in_phases * w->kernel;
            kernels->copy_rows(taps, offsets, n, lanes, together);
            kernels->planes_out(together, n, to + start / w->in_phases * w->kernel * element, pitch, filters);
            continue;
        }
        ptrdiff_t at[TAPS];
        for (ptrdiff_t n = 0; n < count; n++) {
            ptrdiff_t channel, phase;
            split_depth(j, start + n, &channel, &phase);
            list_taps(w, phase, false, at);
            for (ptrdiff_t t = 0; t < of_tile; t++) {
                if (at[t] < 0)
                    continue;
                const char *from = taps + (n * of_tile + t) * lanes * element;
                char *tap = to + (channel * w->kernel + at[t]) * element;
                for (ptrdiff_t i = 0; i < filters; i++)
                    memcpy(tap + i * pitch * element, from + i * element, (size_t)element);
            }
        }
    }
}

/* A block's products at rows of points from first to last, added to a share's sums. b, d: of x and dy. */
static void add_products(const job *j, const share *s, const block *b, const block *d, const char *v, const char *dv,
                         ptrdiff_t first, ptrdiff_t last, bool accumulate)
{
    const view *w = j->view;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = kernels->lanes,
                    across = j->shape->axis[1].points, parts = (s->c1 - s->c0 + 1) / 2;
    for (ptrdiff_t i = first; i < last; i++)
        for (ptrdiff_t k = 0; k < across; k++) {
            const ptrdiff_t p = i * SIDE + k, step = b->tiles[p] * lanes;
            fc_winograd_outer o = {.dy_pitch = step, .pitch = s->columns};
            /* the next point's operands come from afar: each product fetches two vectors' worth of them */
            const ptrdiff_t next = k + 1 < across ? p + 1 : fc_min(p / SIDE + 1, SIDE - 1) * SIDE,
                            ahead = b->tiles[next] * lanes;
            ptrdiff_t part = 0;
            for (ptrdiff_t c = s->c0; c < s->c1; c++) {
                if (w->order == BLOCKED && is_void(w, c % w->in_phases, i, k)) {
                    part += (s->f1 - s->f0 + 1) / 2; /* whatever is found there counts for the lacking tap alone */
                    continue;
                }
                o.channels = fc_min(lanes, j->view->depth - c * lanes);
                for (ptrdiff_t f = s->f0; f < s->f1; f += 2, part++) {
                    const char *x = v + (b->v[p] + c * step) * element, *dy = dv + (d->v[p] + f * step) * element;
                    o.next = part < parts ? v + (b->v[next] + (s->c0 + 2 * part) * ahead) * element
                             : s->f0 + 2 * (part - parts) < s->f1
                                 ? dv + (d->v[next] + (s->f0 + 2 * (part - parts)) * ahead) * element
                                 : x;
                    o.s = s->sums +
                          ((i * across + k) * s->pitch + (c - s->c0) * lanes * s->columns + (f - s->f0) * lanes) *
                              element;
                    for (ptrdiff_t n = 0; n < fc_min(j->in.joined, b->images); n++) {
                        o.x = x + n * j->view->depth * element;
                        o.dy = dy;
                        o.tiles = joined_count(b->images, j->in.joined, n) * b->of_image[p];
                        o.accumulate = accumulate || n > 0;
                        j->plan->kernels->winograd_outer[fc_min(s->f1 - f, 2) - 1](&o);
                        dy += o.tiles * lanes * element;
                    }
                }
            }
        }
}

static share share_at(const job *j, ptrdiff_t index, char *own)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes,
                    filters = h->task_panels * h->width / lanes;
    share s;
    s.c0 = index % h->tasks[0] * h->task_vectors;
    s.c1 = fc_min(s.c0 + h->task_vectors, h->vectors);
    s.f0 = index / h->tasks[0] * filters;
    s.f1 = fc_max(fc_min(s.f0 + filters, j->range_vectors), s.f0);
    s.columns = (s.f1 - s.f0) * lanes;
    s.pitch = (s.c1 - s.c0) * lanes * s.columns + lanes;
    s.sums = h->own ? own : j->shared + (h->round * (h->v + h->d) + index * h->sums) * element;
    return s;
}

static void run_sums(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    char *at = j->workspace + (size_t)worker * h->worker, *taps = fc_take(&at, h->taps * element);
    const share s = share_at(j, index / h->parts, fc_take(&at, 0));
    const ptrdiff_t down = h->axis[0].points, first = index % h->parts * down / h->parts,
                    last = (index % h->parts + 1) * down / h->parts;
    if (s.f0 == s.f1)
        return;
    for (ptrdiff_t n = 0; n < j->blocks; n++) {
        const block b = block_at(j, j->first_block + n, h->vectors),
                    d = block_at(j, j->first_block + n, j->range_vectors);
        add_products(j, &s, &b, &d, j->shared + n * h->v * element, j->shared + (h->round * h->v + n * h->d) * element,
                     first, last, j->first_block + n > 0);
    }
    if (h->parts == 1 && j->first_block + j->blocks == h->blocks)
        put_weights(j, &s, taps);
}

/* What is left to do for tasks in parts. */
static void run_put(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const share s = share_at(j, index, NULL);
    if (s.f0 < s.f1)
        put_weights(j, &s, j->workspace + (size_t)worker * j->shape->worker);
}

/* Few sums: a split takes its blocks from start to end, and keeps sums of its own. Each of its parts transforms all its tiles. */
static share share_of_split(const job *j, ptrdiff_t split)
{
    const shape *h = j->shape;
    const ptrdiff_t lanes = j->plan->kernels->lanes;
    share s = {.c1 = h->vectors, .f1 = j->view->vectors, .columns = j->view->vectors * lanes};
    s.pitch = h->vectors * lanes * s.columns + lanes;
    s.sums = j->shared + split * h->sums * (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    return s;
}

static void run_split(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), split = index / h->parts,
                    part = index % h->parts, down = h->axis[0].points, first = split * h->blocks / h->splits,
                    last = (split + 1) * h->blocks / h->splits;
    const space s = space_of(j, worker);
    char *v = s.own, *dv = v + fc_round_up(h->v * element, FC_ALIGNMENT);
    const share all = share_of_split(j, split);
    for (ptrdiff_t n = first; n < last; n++) {
        const block b = block_at(j, n, h->vectors), d = block_at(j, n, all.f1);
        transform_input(j, &j->in, &b, 0, h->vectors, &s, v);
        transform_input(j, &j->dy, &d, 0, all.f1, &s, dv);
        add_products(j, &all, &b, &d, v, dv, part * down / h->parts, (part + 1) * down / h->parts, n > first);
    }
}

/* Adds the splits' sums of one vector of channels and one of filters, in order, and finishes them. */
static void add_splits(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), lanes = j->plan->kernels->lanes;
    share s = share_of_split(j, 0);
    s.c0 = index % h->vectors;
    s.c1 = s.c0 + 1;
    s.f0 = index / h->vectors;
    s.f1 = s.f0 + 1;
    s.sums += (s.c0 * lanes * s.columns + s.f0 * lanes) * element;
    for (ptrdiff_t split = 1; split < h->splits; split++)
        for (ptrdiff_t p = 0; p < h->points; p++)
            for (ptrdiff_t c = 0; c < fc_min(lanes, j->view->depth - s.c0 * lanes); c++) {
                char *to = s.sums + (p * s.pitch + c * s.columns) * element;
                j->plan->kernels->add(to + split * h->sums * element, to, lanes);
            }
    put_weights(j, &s, space_of(j, worker).taps);
}

static void run_weights(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    view w = view_of(plan);
    shape h = shape_of_weights(plan, &w, threads);
    const ptrdiff_t panel_vectors = h.width / plan->kernels->lanes, vectors = w.vectors;
    job j = {.plan = plan,
             .view = &w,
             .shape = &h,
             .in = operand_of(plan, &w, arrays->x),
             .out = arrays->weight,
             .workspace = space,
             .shared = space + (size_t)threads * h.worker};
    j.dy = (operand){.data = arrays->y,
                     .channels = w.filters,
                     .groups = w.groups,
                     .depth = w.filters,
                     .size = {w.side[0].places, w.side[1].places},
                     .step = {1, 1},
                     .phases = {1, 1},
                     .joined = 1,
                     .apart = h.joined,
                     .transform = plan->kernels->winograd_spread};
    j.past = fc_threads_apart(threads);
    j.in.joined = h.joined;
    for (j.group = 0; j.group < w.groups; j.group++)
        for (j.range = 0; j.range < vectors; j.range += h.range * panel_vectors) {
            j.dy.first = j.range;
            j.range_vectors = fc_min(h.range * panel_vectors, vectors - j.range);
            if (h.splits) {
                fc_parallel(threads, h.splits * h.parts, run_split, &j);
                fc_parallel(threads, h.vectors * vectors, add_splits, &j);
                continue;
            }
            for (j.first_block = 0; j.first_block < h.blocks; j.first_block += h.round) {
                j.blocks = fc_min(h.round, h.blocks - j.first_block);
                fc_parallel(threads,
                            j.blocks * (fc_ceil_div(h.vectors, h.inputs) + fc_ceil_div(j.range_vectors, h.inputs)),
                            run_gradient_tiles, &j);
                fc_parallel(threads, h.tasks[0] * h.tasks[1] * h.parts, run_sums, &j);
            }
            if (h.parts > 1)
                fc_parallel(threads, h.tasks[0] * h.tasks[1], run_put, &j);
        }
}

/* ---- the algorithm ---------------------------------------------------------------------------------------- */

static size_t workspace_of_tiles(const fc_conv_plan *plan, int threads)
{
    const view w = view_of(plan);
    shape h =
        plan->problem.pass == FC_BACKWARD_WEIGHT ? shape_of_weights(plan, &w, threads) : shape_of(plan, &w, threads);
    return h.worker * (size_t)threads + h.shared;
}

static const char *decline_tiles(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const view w = view_of(plan);
    ptrdiff_t most = 1;
    for (int a = 0; a < 2; a++) {
        const side *s = &w.side[a];
        if (s->kernel < s->stride)
            return "its phases need a kernel of the stride or larger";
        if (s->phases > PHASES)
            return "strides over 4 leave it too many phases";
        if (s->taps > FC_WINOGRAD_TAPS || s->taps == 6)
            return "it has tiles for 1 to 5 and 7 taps a phase";
        most = fc_max(most, s->taps);
    }
    if (most == 1)
        return "one tap a phase leaves it no multiplications to save";
    if (most_tiles(plan, w.depth + (p->pass == FC_BACKWARD_WEIGHT ? w.filters : 0)) < 1)
        return "one tile of so many channels is larger than its workspace may be";
    if (workspace_of_tiles(plan, 1) > plan->limit)
        return "the sums of its points are larger than its workspace may be";
    return NULL;
}

static double cost_of_tiles(const fc_conv_plan *plan)
{
    const view w = view_of(plan);
    axis chosen[2];
    return choose(plan, &w, chosen) * (double)w.groups / FC_NOMINAL_HERTZ;
}

/* The ways of a problem that is not dilated, and what the cheapest costs. */
enum { NONE, TILES, IMAGES, LINES };

static int way_of(const fc_conv_plan *plan, double *cost)
{
    const bool tiles = !decline_tiles(plan);
    const double costs[] = {INFINITY, tiles ? cost_of_tiles(plan) : INFINITY,
                            tiles && fc_winograd_images_fit(plan) ? fc_winograd_images_cost(plan) : INFINITY,
                            fc_winograd_lines_fit(plan) ? fc_winograd_lines_cost(plan) : INFINITY};
    int best = NONE;
    for (int i = TILES; i <= LINES; i++)
        if (costs[i] < costs[best])
            best = i;
    *cost = costs[best];
    return best;
}

static const char *decline(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->kernel[0] != 1 || p->input[0] != 1 || plan->output[0] != 1 || p->pad_before[0] != 0)
        return "it does two-dimensional kernels only";
    if (fc_is_dilated(plan)) {
        const char *reason = fc_dilated_decline(plan);
        if (reason)
            return reason;
        const fc_conv_plan inner = fc_dilated_plan(plan);
        return decline(&inner);
    }
    double least;
    return way_of(plan, &least) == NONE ? decline_tiles(plan) : NULL;
}

static int way(const fc_conv_plan *plan)
{
    if (fc_is_dilated(plan)) {
        const fc_conv_plan inner = fc_dilated_plan(plan);
        return way(&inner);
    }
    double least;
    return way_of(plan, &least);
}

static double cost(const fc_conv_plan *plan)
{
    if (fc_is_dilated(plan)) {
        const fc_conv_plan inner = fc_dilated_plan(plan);
        return cost(&inner) * (double)fc_dilated_rounds(plan) + fc_dilated_cost(plan);
    }
    double least;
    way_of(plan, &least);
    return least;
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    if (fc_is_dilated(plan)) {
        const fc_conv_plan inner = fc_dilated_plan(plan);
        return workspace(&inner, threads) + fc_dilated_workspace(plan);
    }
    switch (plan->way) {
    case IMAGES:
        return fc_winograd_images_workspace(plan, threads);
    case LINES:
        return fc_winograd_lines_workspace(plan, threads);
    default:
        return workspace_of_tiles(plan, threads);
    }
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    if (fc_is_dilated(plan)) {
        fc_dilated_run(plan, arrays, space, threads);
        return;
    }
    if (plan->way != TILES) {
        (plan->way == IMAGES ? fc_winograd_images_run : fc_winograd_lines_run)(plan, arrays, space, threads);
        return;
    }
    if (plan->problem.pass == FC_BACKWARD_WEIGHT) {
        run_weights(plan, arrays, space, threads);
        return;
    }
    const view w = view_of(plan);
    shape h = shape_of(plan, &w, threads);
    bool forward = plan->problem.pass == FC_FORWARD;
    job j = {.plan = plan,
             .view = &w,
             .shape = &h,
             .in = operand_of(plan, &w, forward ? arrays->x : arrays->y),
             .weight = arrays->weight,
             .bias = forward ? arrays->bias : NULL,
             .out = forward ? arrays->y : arrays->x,
             .workspace = space,
             .shared = (char *)space + (size_t)threads * h.worker,
             .threads = threads,
             .turned = !forward,
             .past = fc_threads_apart(threads)};
    for (j.group = 0; j.group < w.groups; j.group++) {
        if (h.kept) {
            fc_parallel(threads, h.panels * fc_ceil_div(w.depth, KEPT_CHANNELS), keep_filters, &j);
            fc_parallel(threads, h.blocks, run_block, &j);
            continue;
        }
        for (j.first_block = 0; j.first_block < h.blocks; j.first_block += h.round) {
            j.blocks = fc_min(h.round, h.blocks - j.first_block);
            fc_parallel(threads, j.blocks * fc_ceil_div(h.vectors, h.inputs), run_input, &j);
            fc_parallel(threads, j.blocks * h.panels, run_panel, &j);
        }
    }
}

const fc_conv_algorithm fc_algorithm_winograd = {"winograd", decline, cost, workspace, run, NULL, way};

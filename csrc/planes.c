/* planes.c -- forward and input gradient, channels first: filters x (channels, taps) times (channels, taps) x places.
 *
 * A task takes one box of places and a range of filters. Its part of the image is staged, a block of the reduction at a time; then
 * every panel of filters meets every tile of places. Places are the vector side of the tile: y is written as it lies in memory.
 * Where places are pixels, nothing is staged: one panel of filters reads whole tiles from the image itself; of several, the first one packs
 * them on its way.
 * Tiles number the places either densely (packed: panels are copied from the stage) or, where tiles read the stage in place (direct), row by row,
 * a row's last tile being moved back to end with it; rows shorter than a tile by their position in the stage, so that a few positions that are
 * no places are computed, too, and thrown away. */
#include "conv.h"

/* Where the columns of one tile go. */
typedef struct tile {
    ptrdiff_t first_run, runs, columns;
    ptrdiff_t start;  /* of its columns, where they are not packed: in the stage */
    ptrdiff_t beside; /* within a row: it and those that follow it; else 0 */
    ptrdiff_t slot;   /* -1: it is written straight to the output; else where it is summed up until it is complete */
    bool whole;       /* its rows are whole ones of the image: they can be read where they lie */
} tile;

/* What a worker holds, as element and entry counts. */
typedef struct shape {
    fc_boxes boxes;
    int kind;             /* FC_NARROW or FC_WIDE */
    bool packs;           /* columns are packed: im2col */
    ptrdiff_t width;      /* of a tile */
    ptrdiff_t slim;       /* tiles of at most so many columns take the slim kernel; 0: none do */
    ptrdiff_t panel_rows; /* of a panel of filters, at most */
    ptrdiff_t depth, depth_blocks;
    bool in_place;         /* columns are packed from the image itself: each place is a pixel of its own */
    bool unpacked;         /* of those, what fills a tile is multiplied where it lies; */
    bool kept;             /* or there by the first panel of filters alone, which packs it on the way */
    bool turn_panels;      /* weights are turned a panel at a time, as [k][FC_MAX_ROWS] */
    ptrdiff_t blocks;      /* of the reduction that are packed together: all of them, or one */
    ptrdiff_t filters;     /* of a task, at most */
    ptrdiff_t tiles, runs; /* of a box, at most */
    ptrdiff_t stage, panel, packed, slots; /* elements */
    size_t worker;                         /* bytes a worker needs */
} shape;

typedef struct planes {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    const shape *shape;
    const char *in, *bias;
    const char *weight; /* (groups, filters, channels, taps), the filters of one round */
    const char
        *unturned; /* or, where one filter's turned weights alone are too many: (groups, channels, filters, kernel) */
    char *out;
    ptrdiff_t first_group, groups, first_filter, filters, filter_blocks; /* of the round */
    char *workspace;
    int threads;
    bool streamed; /* what is written goes past the caches */
} planes;

enum {
    PACKED_BYTES = 768 << 10, /* of the image's block: it stays in the second-level cache beside the rest */
    KEPT_BYTES = 256 << 10,   /* the same where the next one is fetched meanwhile, */
    WHOLE_BYTES = 1 << 20,    /* the same of a whole reduction, */
    WHOLE_TILES = 8,          /* if there is room for as many tiles */
    TURNED_BYTES = 512 << 10, /* of a group's weights, that are turned once for all boxes, at most */
    TASKS_EACH = 2,           /* of a thread, at least, if some may take longer than others; */
    EXCESS_PERCENT = 8,       /* that a thread may have to do beyond its part, if all take as long */
    STAGE_CYCLES = 3,         /* estimated, of a vector of the image that is staged, */
    PHASES_CYCLES = 6,        /* where it is strided, and all phases are taken at once, */
    MOST_PHASES = 4,          /* of so many, */
    TWOS_CYCLES = 8,          /* where each second element is taken, */
    STEPS_CYCLES = 24,        /* or fewer of them, */
    SUM_CYCLES = 3,           /* of a vector of sums, */
    END_CYCLES = 50,          /* of a row's end that is copied to the output */
    TURN_CYCLES = 3,          /* and of a weight that is turned, by whole kernels; twice that where it is by phases */
};

/* The input gradient of a kernel of one tap: filters lie side by side as they are, and, if they are many, are turned when a box needs them. */
static bool is_turned_by_panels(const fc_conv_plan *plan, const fc_sweep *s, bool packed)
{
    const fc_axis *ax = s->axis;
    return packed && plan->problem.pass != FC_FORWARD && ax[0].kernel * ax[1].kernel * ax[2].kernel == 1 &&
           s->filters > plan->kernels->rows[FC_WIDE] &&
           s->filters * s->channels * (ptrdiff_t)fc_size_of(plan->problem.dtype) > TURNED_BYTES;
}

/* Whether tiles read the stage in place, each within a row. Pixels are one row as it is. */
static bool takes_rows(const fc_sweep *s, const fc_box *box, const shape *h)
{
    return !h->packs && h->kind == FC_NARROW && box->count[3] >= h->width && s->axis[2].output_step == 1 &&
           !s->accumulate && !fc_sweep_of_pixels(s);
}

static fc_stage stage_of(const fc_conv_plan *plan, const fc_sweep *s, const fc_box *box, const shape *h)
{
    /* rows of whole cache lines: what crosses none is loaded in half the time */
    return takes_rows(s, box, h) ? fc_stage_of_rows(s, box, FC_ALIGNMENT / (ptrdiff_t)fc_size_of(plan->problem.dtype))
                                 : fc_stage_of(s, box);
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s, bool packed)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), taps = fc_sweep_taps(s);
    shape h = {.kind = s->filters <= kernels->rows[FC_WIDE] ? FC_WIDE : FC_NARROW, .packs = packed};
    h.width = kernels->width[h.kind];
    h.panel_rows = fc_ceil_div(s->filters, fc_ceil_div(s->filters, kernels->rows[h.kind]));
    h.depth = fc_depth_block(s->channels, taps, &h.depth_blocks);
    h.in_place = packed && fc_sweep_of_pixels(s);
    h.unpacked = h.in_place && s->filters <= h.panel_rows;
    h.kept = h.in_place && !h.unpacked;
    h.turn_panels = is_turned_by_panels(plan, s, packed);
    h.slim = packed && h.kind == FC_NARROW ? kernels->width[FC_SLIM] : 0;
    const bool whole = packed && h.depth_blocks * h.depth * element * h.width * WHOLE_TILES <= WHOLE_BYTES;
    h.blocks = whole ? h.depth_blocks : 1;
    const ptrdiff_t block = h.kept ? KEPT_BYTES : h.blocks > 1 ? WHOLE_BYTES : PACKED_BYTES;
    ptrdiff_t places = fc_min(block / (fc_max(h.depth * h.blocks, 1) * element), 2048);
    for (places = fc_max(places / h.width, 1) * h.width;; places = fc_max(places / 2, 1)) {
        h.boxes = fc_boxes_of(s, places, h.in_place ? h.width : 1);
        fc_box box = {.count = {h.boxes.count[0], h.boxes.count[1], h.boxes.count[2], h.boxes.count[3]}};
        fc_stage stage = stage_of(plan, s, &box, &h);
        ptrdiff_t channels = taps ? fc_min(fc_ceil_div(h.depth, taps) + (h.depth % taps != 0), s->channels) : 0;
        ptrdiff_t columns = packed ? fc_box_places(&box) : fc_stage_positions(&stage);
        h.tiles = fc_ceil_div(columns, h.width);
        if (takes_rows(s, &box, &h))
            h.tiles = fc_max(h.tiles, 2 * box.count[0] * box.count[1] * box.count[2]);
        h.runs = box.count[0] * box.count[1] * box.count[2] + h.tiles;
        h.stage = (h.in_place ? 0 : channels * stage.pitch) + FC_SLACK;
        h.packed = packed ? h.tiles * h.width * (h.depth + 1) * h.blocks + FC_SLACK : 0;
        h.panel = h.panel_rows * FC_LDA + FC_DEPTH * FC_MAX_ROWS;
        /* all filters of a box at once, unless their unfinished sums would not fit */
        ptrdiff_t room = (ptrdiff_t)(fc_part_limit(plan) / 4) / element / (h.tiles * h.width);
        h.filters =
            h.blocks == h.depth_blocks ? s->filters : fc_min(s->filters, fc_max(room / h.panel_rows, 1) * h.panel_rows);
        h.slots = (h.blocks == h.depth_blocks ? h.panel_rows : fc_round_up(h.filters, h.panel_rows)) * h.width *
                  (h.depth_blocks == 1 ? 1 : h.tiles);
        h.worker =
            (size_t)(fc_round_up((h.stage + h.panel + h.packed + h.slots) * element, FC_ALIGNMENT) + 4 * FC_ALIGNMENT +
                     fc_round_up(h.tiles * (ptrdiff_t)sizeof(tile) + 2 * h.runs * (ptrdiff_t)sizeof(fc_run) +
                                     FC_DEPTH * (ptrdiff_t)sizeof(ptrdiff_t),
                                 FC_ALIGNMENT));
        if (h.worker <= fc_part_limit(plan) / 2 || places == 1)
            return h;
    }
}

/* Where a row of places begins in the output. */
static ptrdiff_t output_of(const fc_sweep *s, const fc_box *box, ptrdiff_t image, ptrdiff_t deep, ptrdiff_t high)
{
    const fc_axis *ax = s->axis;
    return (box->first[0] + image) * s->groups * s->filters * fc_sweep_output(s) +
           ((ax[0].output_first + (box->first[1] + deep) * ax[0].output_step) * ax[1].output + ax[1].output_first +
            (box->first[2] + high) * ax[1].output_step) *
               ax[2].output +
           ax[2].output_first + box->first[3] * ax[2].output_step;
}

/* Lists tiles within rows. One that lies over the one before it adds nothing to it: if not all of the reduction comes at once, it keeps its sums
 * to itself. */
static ptrdiff_t list_rows(const fc_sweep *s, const fc_stage *stage, const shape *given, ptrdiff_t lanes, tile *tiles,
                           fc_run *in, fc_run *out)
{
    const ptrdiff_t *n = stage->box.count, *length = stage->length;
    ptrdiff_t count = 0, slots = 0;
    for (ptrdiff_t row = 0; row < n[0] * n[1] * n[2]; row++) {
        const ptrdiff_t image = row / (n[1] * n[2]), deep = row / n[2] % n[1], high = row % n[2],
                        position = ((image * length[0] + deep) * length[1] + high) * length[2],
                        to = output_of(s, &stage->box, image, deep, high);
        for (ptrdiff_t w = 0, next; w < n[3]; w = next, count++) {
            const ptrdiff_t whole = fc_quotient(n[3] - w, given->width),
                            columns = n[3] - w <= lanes ? lanes : given->width, start = fc_min(w, n[3] - columns);
            tiles[count] = (tile){.first_run = count,
                                  .runs = 1,
                                  .columns = columns,
                                  .start = position + start,
                                  .beside = fc_max(whole, 1)};
            tiles[count].slot = start < w && given->depth_blocks > 1 ? slots++ : -1;
            in[count] = (fc_run){position + start, 0, columns};
            out[count] = (fc_run){0, to + start, columns};
            next = w + fc_max(whole, 1) * given->width;
        }
    }
    return count;
}

/* Lists, tile by tile, which stretches of columns are places: from the stage, or in place, to the tile, and from the tile to the
 * output. A tile of at most `slim` columns will be computed by a narrower kernel. */
static ptrdiff_t list_runs(const fc_sweep *s, const fc_stage *stage, const shape *given, ptrdiff_t lanes, tile *tiles,
                           fc_run *in, fc_run *out)
{
    if (takes_rows(s, &stage->box, given))
        return list_rows(s, stage, given, lanes, tiles, in, out);
    const bool in_place = given->in_place, packed = given->packs;
    const ptrdiff_t width = given->width, slim = given->slim;
    const fc_axis *ax = s->axis;
    const ptrdiff_t *n = stage->box.count, *first = stage->box.first, *length = stage->length;
    ptrdiff_t count = 0, dense = 0, last = -1;
    memset(tiles, 0,
           (size_t)fc_ceil_div(packed ? fc_box_places(&stage->box) : fc_stage_positions(stage), width) * sizeof *tiles);
    for (ptrdiff_t i = 0; i < n[0]; i++)
        for (ptrdiff_t d = 0; d < n[1]; d++)
            for (ptrdiff_t h = 0; h < n[2]; h++) {
                ptrdiff_t position = ((i * length[0] + d) * length[1] + h) * length[2];
                if (in_place)
                    position =
                        (first[0] + i) * s->groups * s->channels * fc_sweep_input(s) +
                        ((ax[0].origin + first[1] + d) * ax[1].input + ax[1].origin + first[2] + h) * ax[2].input +
                        ax[2].origin + first[3];
                const ptrdiff_t to = output_of(s, &stage->box, i, d, h);
                for (ptrdiff_t w = 0; w < n[3];) {
                    ptrdiff_t column = packed ? dense + w : position + w, t = column / width;
                    ptrdiff_t step = fc_min(n[3] - w, (t + 1) * width - column);
                    if (t != last) {
                        tiles[t].first_run = count;
                        tiles[t].start = t * width;
                        last = t;
                    }
                    fc_run *a = in + fc_max(count - 1, 0), *b = out + fc_max(count - 1, 0);
                    column -= t * width;
                    /* a run that goes on where the one before it ended, on both sides, is the same run */
                    if (tiles[t].runs && b->from + b->length == column && ax[2].output_step == 1 &&
                        b->to + b->length == to + w && (!packed || a->from + a->length == position + w)) {
                        a->length += step;
                        b->length += step;
                    } else {
                        in[count] = (fc_run){position + w, column, step};
                        out[count] = (fc_run){column, to + w * ax[2].output_step, step};
                        count++;
                        tiles[t].runs++;
                    }
                    tiles[t].columns = column + step;
                    w += step;
                }
                dense += n[3];
            }
    ptrdiff_t slots = 0;
    for (ptrdiff_t t = 0; t <= last; t++) {
        /* what came from several rows may still be one stretch of the output, without a gap on either side */
        const fc_run *run = out + tiles[t].first_run;
        ptrdiff_t length = 0;
        for (ptrdiff_t i = 0; i < tiles[t].runs && run[i].to == run->to + length; i++)
            length += run[i].length;
        const bool whole = (length == width || length == slim) && length == tiles[t].columns;
        tiles[t].slot = whole && ax[2].output_step == 1 ? -1 : slots++;
        tiles[t].whole = in_place && tiles[t].runs == 1 && length == width;
    }
    return last + 1;
}

/* One row of a finished tile to where it belongs. */
static void put_row(size_t element, const fc_run *runs, ptrdiff_t count, ptrdiff_t step, const char *row, char *plane)
{
    for (ptrdiff_t r = 0; r < count; r++) {
        const char *from = row + runs[r].from * (ptrdiff_t)element;
        char *to = plane + runs[r].to * (ptrdiff_t)element;
        if (step == 1)
            memcpy(to, from, (size_t)runs[r].length * element);
        else if (element == 4)
            for (ptrdiff_t i = 0; i < runs[r].length; i++)
                ((float *)to)[i * step] = ((const float *)from)[i];
        else
            for (ptrdiff_t i = 0; i < runs[r].length; i++)
                ((double *)to)[i * step] = ((const double *)from)[i];
    }
}

/* Gets a row of a tile from where put_row puts it, at unit steps. */
static void get_row(size_t element, const fc_run *runs, ptrdiff_t count, char *row, const char *plane)
{
    for (ptrdiff_t r = 0; r < count; r++)
        memcpy(row + runs[r].from * (ptrdiff_t)element, plane + runs[r].to * (ptrdiff_t)element,
               (size_t)runs[r].length * element);
}

/* The kernel index of a tap. */
static ptrdiff_t kernel_index(const fc_sweep *s, ptrdiff_t tap)
{
    const fc_axis *ax = s->axis;
    ptrdiff_t w = tap % ax[2].taps, h = tap / ax[2].taps % ax[1].taps, d = tap / ax[2].taps / ax[1].taps;
    return ((ax[0].kernel_first + d * ax[0].kernel_step) * ax[1].kernel + ax[1].kernel_first + h * ax[1].kernel_step) *
               ax[2].kernel +
           ax[2].kernel_first + w * ax[2].kernel_step;
}

static void turn_panel(const planes *p, ptrdiff_t group, ptrdiff_t filter, ptrdiff_t rows, ptrdiff_t k0,
                       ptrdiff_t depth, char *panel)
{
    const fc_sweep *s = p->sweep;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), taps = fc_sweep_taps(s);
    const ptrdiff_t kernel = s->axis[0].kernel * s->axis[1].kernel * s->axis[2].kernel;
    for (ptrdiff_t k = 0; k < depth; k++) {
        ptrdiff_t channel = (p->first_group + group) * s->channels + (k0 + k) / taps,
                  tap = kernel_index(s, (k0 + k) % taps);
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(panel + (i * FC_LDA + k) * element,
                   p->unturned + ((channel * s->filters + p->first_filter + filter + i) * kernel + tap) * element,
                   (size_t)element);
    }
}

/* Packs one tile's columns of a block of the reduction, row k at from[offsets[k]]: [k][width of its kernel]. May run over its end by less than a row;
 * nothing is read from `end` on. */
static void pack(const planes *p, const tile *t, const fc_run *runs, ptrdiff_t depth, const ptrdiff_t *offsets,
                 const char *from, const char *end, char *to)
{
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype),
                    width = t->columns <= p->shape->slim ? p->shape->slim : p->shape->width;
    const fc_run *first = runs + t->first_run, *last = first + t->runs - 1;
    if (t->whole && p->shape->unpacked)
        return;
    if (t->runs == 1 && first->length == width) {
        kernels->copy_rows(from + first->from * element, offsets, depth, width, to);
        return;
    }
    for (ptrdiff_t k = 0; k < depth; k++, to += width * element) {
        const char *row = from + offsets[k] * element;
        if (end - row >= (last->from + fc_round_up(last->length, kernels->lanes)) * element)
            kernels->copy_runs(first, t->runs, row, to);
        else
            for (const fc_run *r = first; r <= last; r++)
                kernels->copy(row + r->from * element, to + r->to * element, r->length);
    }
}

/* What a worker has set up for one box. */
typedef struct desk {
    const planes *p;
    fc_stage stage;
    ptrdiff_t group, first, last; /* filters first .. last-1, both of the round */
    ptrdiff_t panels;             /* of filters: of as many rows, or of one less */
    char *staged, *panel, *packed, *slots;
    tile *tiles;
    ptrdiff_t tile_count;
    fc_run *in, *out;
    ptrdiff_t *offsets;
    const char *image, *image_end;
    ptrdiff_t tile_bytes, block_bytes; /* of what is packed */
    bool foreseen;                     /* what is read next is known: each place is a pixel, of all of them */
    ptrdiff_t images;                  /* of the box, if it is whole ones; else 0 */
    ptrdiff_t first_place, next_place; /* in the image: of the box, and of the worker's next one, or -1 */
    bool copied;                       /* rows of weights are copied */
    bool by_rows;                      /* tiles stay within rows of places */
} desk;

/* Where a box's first place lies in the input, if places are pixels. */
static ptrdiff_t place_of(const fc_sweep *s, const fc_box *box)
{
    const fc_axis *ax = s->axis;
    return box->first[0] * s->groups * s->channels * fc_sweep_input(s) +
           (box->first[1] * ax[1].input + box->first[2]) * ax[2].input + box->first[3];
}

static desk set_up(const planes *p, ptrdiff_t index, int worker)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), plane = fc_sweep_input(s);
    desk d = {.p = p};
    /* neighbouring tasks share weights rather than images: images are staged again anyway */
    const ptrdiff_t block = index / h->boxes.total % p->filter_blocks,
                    next = fc_task_after(p->threads, p->groups * p->filter_blocks * h->boxes.total, index);
    const ptrdiff_t block_rows = fc_ceil_div(p->filters, p->filter_blocks);
    d.group = index / h->boxes.total / p->filter_blocks;
    d.first = block * block_rows;
    d.last = fc_min(d.first + block_rows, p->filters);
    if (d.first >= d.last)
        return d;
    d.panels = fc_ceil_div(d.last - d.first, h->panel_rows);

    char *space = p->workspace + (size_t)worker * h->worker;
    d.staged = fc_take(&space, h->stage * element);
    d.panel = fc_take(&space, h->panel * element);
    d.packed = fc_take(&space, h->packed * element);
    d.slots = fc_take(&space, h->slots * element);
    d.tiles = fc_take(&space, 0);
    d.in = (fc_run *)(d.tiles + h->tiles);
    d.out = d.in + h->runs;
    d.offsets = (ptrdiff_t *)(d.out + h->runs);

    const fc_box box = fc_box_at(s, &h->boxes, index % h->boxes.total);
    d.stage = stage_of(p->plan, s, &box, h);
    d.tile_count = list_runs(s, &d.stage, h, p->plan->kernels->lanes, d.tiles, d.in, d.out);
    d.image = p->in + (p->first_group + d.group) * s->channels * plane * element;
    d.image_end = p->in + s->batch * s->groups * s->channels * plane * element;
    d.tile_bytes = (h->depth + 1) * h->width * element;
    d.block_bytes = h->tiles * d.tile_bytes;
    d.foreseen = fc_sweep_in_place(s) && h->in_place;
    d.images = fc_box_places(&box) == box.count[0] * fc_sweep_places(s) ? box.count[0] : 0;
    d.first_place = place_of(s, &box);
    d.next_place = -1;
    if (next / h->boxes.total == index / h->boxes.total) {
        const fc_box after = fc_box_at(s, &h->boxes, next % h->boxes.total);
        d.next_place = place_of(s, &after);
    }
    d.by_rows = takes_rows(s, &box, h);
    /* rows of weights are read in place, unless they would share cache sets, or become a panel anyway */
    d.copied = p->unturned || (!d.by_rows && fc_sweep_depth(s) * element % FC_ALIAS == 0);
    return d;
}

static ptrdiff_t panel_start(const desk *d, ptrdiff_t panel)
{
    return d->first + fc_quotient(panel * (d->last - d->first), d->panels);
}

/* Packs the tiles of block b of the reduction, to the b0-th place. */
static void pack_block(const desk *d, ptrdiff_t b, ptrdiff_t b0)
{
    const planes *p = d->p;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), taps = fc_sweep_taps(s),
                    plane = fc_sweep_input(s);
    const ptrdiff_t k0 = b * h->depth, depth = fc_min(h->depth, fc_sweep_depth(s) - k0);
    char *to = d->packed + b0 * d->block_bytes;
    if (depth == 0)
        return;
    if (h->in_place) {
        for (ptrdiff_t k = 0; k < depth; k++)
            d->offsets[k] = (k0 + k) * plane;
        for (ptrdiff_t i = 0; i < d->tile_count; i++)
            pack(p, &d->tiles[i], d->in, depth, d->offsets, d->image, d->image_end, to + i * d->tile_bytes);
        return;
    }
    const ptrdiff_t c0 = k0 / taps, c1 = (k0 + depth - 1) / taps + 1;
    fc_stage_fill(p->plan, s, &d->stage, p->first_group + d->group, c0, c1, p->in, d->staged);
    fc_stage_offsets(s, &d->stage, k0, depth, c0, d->offsets);
    for (ptrdiff_t i = 0; h->packs && i < d->tile_count; i++)
        pack(p, &d->tiles[i], d->in, depth, d->offsets, d->staged, d->staged + h->stage * element,
             to + i * d->tile_bytes);
}

/* What all tiles of block b of the panel of filters from m on have in common. */
static fc_tile panel_of(const desk *d, ptrdiff_t m, ptrdiff_t rows, ptrdiff_t b)
{
    const planes *p = d->p;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), total = fc_sweep_depth(s);
    const ptrdiff_t k0 = b * h->depth, depth = fc_min(h->depth, total - k0), group = p->first_group + d->group;
    const bool finish = b == h->depth_blocks - 1;
    const char *bias = p->bias ? p->bias + (group * s->filters + p->first_filter + m) * element : NULL;
    fc_tile t = {.a = p->weight + ((d->group * p->filters + m) * total + k0) * element,
                 .lda = total,
                 .depth = depth,
                 .offsets = d->offsets,
                 .row_bias = finish ? bias : NULL,
                 .accumulate = b > 0 || s->accumulate,
                 .relu = finish && p->plan->problem.relu && !s->apart};
    if (h->turn_panels) {
        const char *turned = p->unturned + ((group * s->channels + k0) * s->filters + m) * element;
        fc_patch patch = {.from_pitch = s->filters, .step = 1, .to_pitch = FC_MAX_ROWS, .rows = depth, .columns = rows};
        kernels->place(&patch, turned, p->unturned + s->groups * s->channels * s->filters * element, d->panel);
        t.lda = FC_MAX_ROWS;
    } else if (p->unturned) {
        turn_panel(p, d->group, m, rows, k0, depth, d->panel);
        t.lda = FC_LDA;
    } else if (d->copied) {
        for (ptrdiff_t i = 0; i < rows; i++)
            kernels->copy((const char *)t.a + i * total * element, d->panel + i * FC_LDA * element, depth);
        t.lda = FC_LDA;
    }
    if (d->copied)
        t.a = d->panel;
    if (d->by_rows) {
        char *panel = d->panel + h->panel_rows * FC_LDA * element;
        kernels->transpose(t.a, t.lda, panel, FC_MAX_ROWS, rows, depth);
        t.a = panel;
        t.lda = FC_MAX_ROWS;
    }
    return t;
}

/* What the time of a panel's tiles is used to fetch, by equal shares. What a share is, is worked out once: divisions would cost a tile of few
 * products a tenth of its time. */
typedef struct foresight {
    /* weights of the next panel: `rows` of them, shared out by counting up to what is due */
    const char *weight;
    ptrdiff_t pitch, bytes, rows, due;
    /* the image that is read next, that is the next block's or the next box's; NULL: unknown */
    const char *image;
    ptrdiff_t count; /* steps of a tile in which it fetches: a row of its own columns in each, if `part` is 0 */
    /* else a tile's width in each, and each tile so many elements of whole images: their channels lie in a row, a stretch; from `at` on, so many
     * stretches are left */
    ptrdiff_t part, at, stretch, images;
} foresight;

/* For block b of a panel of filters from m on; the next one has `next` rows. */
static foresight foresee(const desk *d, ptrdiff_t panel, ptrdiff_t m, ptrdiff_t rows, ptrdiff_t next, ptrdiff_t b)
{
    const planes *p = d->p;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), plane = fc_sweep_input(s),
                    total = fc_sweep_depth(s), k0 = b * h->depth;
    foresight f = {.count = 0};
    if (next && h->turn_panels) {
        f.weight = p->unturned + (((p->first_group + d->group) * s->channels + k0) * s->filters + m + rows) * element;
        f.pitch = s->filters * element;
        f.rows = fc_min(h->depth, total - k0);
        f.bytes = next * element;
    } else if (next && !p->unturned) {
        f.weight = p->weight + ((d->group * p->filters + m + rows) * total + k0) * element;
        f.pitch = total * element;
        f.rows = next;
        f.bytes = fc_min(h->depth, total - k0) * element;
    }

    const bool inner = h->blocks == h->depth_blocks, same = !inner && b + 1 < h->depth_blocks;
    if (!d->foreseen || (!same && d->next_place < 0))
        return f;
    const ptrdiff_t panels = d->panels,
                    k1 = same    ? k0 + h->depth
                         : inner ? k0
                                 : 0,
                    depth = fc_min(h->depth, total - k1);
    f.image = d->image + (k1 * plane + (same ? 0 : d->next_place - d->first_place)) * element;
    if (d->images) { /* each tile a part of the same length */
        f.stretch = depth * plane;
        f.part = fc_quotient(d->images * f.stretch - 1, panels * d->tile_count) + 1;
        f.at = panel * d->tile_count * f.part;
        f.images = d->images - fc_quotient(f.at, f.stretch);
        f.image += (d->first_place + (d->images - f.images) * s->groups * s->channels * plane) * element;
        f.at -= (d->images - f.images) * f.stretch;
        f.count = fc_quotient(f.part + h->width - 1, h->width);
    } else { /* each panel a part of the rows */
        const ptrdiff_t r0 = fc_quotient(panel * depth, panels);
        f.image += r0 * plane * element;
        f.count = fc_quotient((panel + 1) * depth, panels) - r0;
    }
    return f;
}

/* The share of the next tile, whose columns begin at `from`. */
static void look_ahead(const desk *d, foresight *f, ptrdiff_t from, fc_tile *t)
{
    const fc_sweep *s = d->p->sweep;
    const shape *h = d->p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(d->p->plan->problem.dtype), plane = fc_sweep_input(s);
    t->ahead_count = 0;
    if (!f->image)
        return;
    if (!f->part) {
        t->ahead = f->image + from * element;
        t->ahead_step = plane;
        t->ahead_count = f->count;
    } else if (f->images > 0) {
        t->ahead = f->image + f->at * element;
        t->ahead_step = h->width;
        t->ahead_count = f->count;
        for (f->at += f->part; f->images > 0 && f->at >= f->stretch; f->images--) {
            f->at -= f->stretch;
            f->image += s->groups * s->channels * plane * element;
        }
    }
}

/* Weights are read once a box and come from afar: the next panel's are fetched while the tiles of this one are computed. */
static void fetch_weights(const desk *d, foresight *f)
{
    for (f->due += f->rows; f->due >= d->tile_count; f->due -= d->tile_count, f->weight += f->pitch)
        for (ptrdiff_t i = 0; i < f->bytes; i += FC_ALIGNMENT)
            __builtin_prefetch(f->weight + i, 0, 2);
}

/* Block b of a panel of filters meets every tile. */
static void run_panel(const desk *d, ptrdiff_t panel, ptrdiff_t b, ptrdiff_t b0)
{
    const planes *p = d->p;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), output = fc_sweep_output(s),
                    plane = fc_sweep_input(s), k0 = b * h->depth, step = s->axis[2].output_step;
    const ptrdiff_t m = panel_start(d, panel), rows = panel_start(d, panel + 1) - m,
                    next = panel + 1 < d->panels ? panel_start(d, panel + 2) - m - rows : 0;
    const ptrdiff_t channel = (p->first_group + d->group) * s->filters + p->first_filter + m;
    const bool finish = b == h->depth_blocks - 1, pack_now = h->kept && m == d->first;
    fc_tile_kernel *const *kernel = h->turn_panels ? kernels->tile_panel[h->kind]
                                    : h->packs     ? kernels->tile_rows[h->kind]
                                                   : kernels->tile_indirect[h->kind];
    fc_tile_kernel *const *slim = h->turn_panels ? kernels->tile_panel[FC_SLIM] : kernels->tile_rows[FC_SLIM];
    fc_tile_kernel *const *keeping = kernels->tile_kept[h->turn_panels];
    foresight ahead = foresee(d, panel, m, rows, next, b);
    fc_tile t = panel_of(d, m, rows, b);
    const bool streamed = p->streamed && finish && !t.accumulate && output * element % FC_ALIGNMENT == 0;
    char *const out_plane = p->out + channel * output * element, *const slots = d->slots,
                *const packed = d->packed + (b - b0) * d->block_bytes;
    for (ptrdiff_t k = 0; pack_now && k < t.depth; k++)
        d->offsets[k] = (k0 + k) * plane;
    for (ptrdiff_t i = 0; i < d->tile_count; i++) {
        const tile *at = &d->tiles[i];
        char *const columns = h->packs ? packed + i * d->tile_bytes : d->staged + at->start * element;
        if (!at->runs) /* it lies between places */
            continue;
        const fc_run *in = d->in + at->first_run, *out = d->out + at->first_run;
        const bool keep = pack_now && at->whole, in_place = keep || (h->unpacked && at->whole);
        t.b = in_place ? d->image + (in->from + k0 * plane) * element : columns;
        t.ldb = in_place ? plane : at->columns <= h->slim ? h->slim : h->width;
        t.kept = columns;
        t.streamed = false;
        if (at->slot < 0) {
            t.c = out_plane + out->to * element;
            t.streamed = streamed && (uintptr_t)t.c % FC_ALIGNMENT == 0;
            t.ldc = output;
        } else {
            ptrdiff_t row = h->depth_blocks == 1           ? 0
                            : h->blocks == h->depth_blocks ? at->slot * h->panel_rows
                                                           : at->slot * h->filters + m - d->first;
            t.c = slots + row * h->width * element;
            t.ldc = h->width;
        }
        if (pack_now && !keep)
            pack(p, at, d->in, t.depth, d->offsets, d->image, d->image_end, columns);
        look_ahead(d, &ahead, in->from, &t);
        for (ptrdiff_t r = 0; s->accumulate && b == 0 && at->slot >= 0 && r < rows; r++)
            get_row((size_t)element, out, at->runs, (char *)t.c + r * h->width * element,
                    out_plane + r * output * element);
        if (at->beside)
            kernels->tiles_beside[at->columns < h->width ? FC_SLIM : FC_NARROW][rows - 1](&t, at->beside);
        else
            (keep ? keeping : at->columns <= h->slim ? slim : kernel)[rows - 1](&t);
        if (ahead.weight)
            fetch_weights(d, &ahead);
        for (ptrdiff_t r = 0; finish && at->slot >= 0 && r < rows; r++)
            put_row((size_t)element, out, at->runs, step, (char *)t.c + r * h->width * element,
                    out_plane + r * output * element);
    }
}

static void run_box(void *context, ptrdiff_t index, int worker)
{
    const planes *p = context;
    const shape *h = p->shape;
    const desk d = set_up(p, index, worker);
    for (ptrdiff_t b0 = 0; b0 < h->depth_blocks; b0 += h->blocks) {
        for (ptrdiff_t b = b0; !h->kept && d.first < d.last && b < b0 + h->blocks; b++)
            pack_block(&d, b, b - b0);
        for (ptrdiff_t panel = 0; panel < d.panels; panel++)
            for (ptrdiff_t b = b0; b < b0 + h->blocks; b++)
                run_panel(&d, panel, b, b0);
    }
    if (p->streamed)
        p->plan->kernels->fence();
}

/* ---- the input gradient's weights: (groups, channels of x, channels of dy, taps) ------------------------------- */

typedef struct turned {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    const char *weight; /* (groups, sweep channels, sweep filters, kernel) */
    char *to;           /* (groups, filters, channels, taps), of the round */
    ptrdiff_t first_group, first_filter, filters;
} turned;

enum { TURN_FILTERS = 16 }; /* whose weights lie together, and are written as so many streams */

static void turn_filters(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const turned *t = context;
    const fc_sweep *s = t->sweep;
    const fc_axis *ax = s->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(t->plan->problem.dtype),
                    kernel = ax[0].kernel * ax[1].kernel * ax[2].kernel;
    const ptrdiff_t taps = fc_sweep_taps(s), blocks = fc_ceil_div(t->filters, TURN_FILTERS);
    ptrdiff_t group = index / blocks, first = index % blocks * TURN_FILTERS,
              count = fc_min(TURN_FILTERS, t->filters - first);
    const char *from =
        t->weight + ((t->first_group + group) * s->channels * s->filters + t->first_filter + first) * kernel * element;
    char *to = t->to + (group * t->filters + first) * s->channels * taps * element;
    if (!taps) /* a phase that no tap reaches */
        return;
    if (kernel == 1) {
        t->plan->kernels->transpose(from, s->filters, to, s->channels, s->channels, count);
        return;
    }
    for (ptrdiff_t c = 0; c < s->channels; c++)
        for (ptrdiff_t i = 0; i < count; i++) {
            ptrdiff_t f = (c * s->filters + i) * kernel, o = (i * s->channels + c) * taps;
            for (ptrdiff_t d = 0; d < ax[0].taps; d++)
                for (ptrdiff_t h = 0; h < ax[1].taps; h++) {
                    ptrdiff_t tap = f +
                                    ((ax[0].kernel_first + d * ax[0].kernel_step) * ax[1].kernel + ax[1].kernel_first +
                                     h * ax[1].kernel_step) *
                                        ax[2].kernel +
                                    ax[2].kernel_first;
                    if (element == 4)
                        for (ptrdiff_t w = 0; w < ax[2].taps; w++)
                            ((float *)to)[o++] = ((const float *)from)[tap + w * ax[2].kernel_step];
                    else
                        for (ptrdiff_t w = 0; w < ax[2].taps; w++)
                            ((double *)to)[o++] = ((const double *)from)[tap + w * ax[2].kernel_step];
                }
        }
}

/* What is turned in one round, so that the turned weights stay under half of the limit: all groups, or one or part of one. False if
 * nothing is turned. */
static bool round_of(const fc_conv_plan *plan, const fc_sweep *s, bool packed, ptrdiff_t *groups, ptrdiff_t *filters)
{
    *groups = s->groups;
    *filters = s->filters;
    if (plan->problem.pass == FC_FORWARD || is_turned_by_panels(plan, s, packed))
        return false;
    ptrdiff_t room = (ptrdiff_t)(fc_part_limit(plan) / 2 / fc_size_of(plan->problem.dtype)) /
                     fc_max(fc_sweep_depth(s), 1); /* filters */
    if (room == 0)
        return false;
    *groups = fc_max(fc_min(s->groups, room / s->filters), 1);
    *filters = fc_min(s->filters, room);
    return true;
}

/* Nobody has much more to do than the others. */
static bool shared_evenly(ptrdiff_t tasks, int threads)
{
    return 100 * fc_round_up(tasks, threads) <= (100 + EXCESS_PERCENT) * tasks;
}

/* Results a little larger than FC_STREAMED stay where they were if what they are computed from takes little room: measured on Zen 5, as fast
 * on one thread and up to twice as fast on two. */
enum { TOUCHED = 24 << 20 };

static void run_part(const fc_part *part, int threads)
{
    const fc_conv_plan *plan = part->plan;
    const fc_sweep row = fc_sweep_in_a_row(part->sweep), *s = &row;
    const shape h = shape_of(plan, s, part->packed);
    ptrdiff_t groups, filters;
    bool turn = round_of(plan, s, part->packed, &groups, &filters);
    const ptrdiff_t images = s->batch * s->groups * (ptrdiff_t)fc_size_of(plan->problem.dtype),
                    read = images * s->channels * fc_sweep_input(s), written = images * s->filters * fc_sweep_output(s);
    for (ptrdiff_t g = 0; g < s->groups; g += groups)
        for (ptrdiff_t f = 0; f < s->filters; f += filters) {
            planes p = {.plan = plan,
                        .sweep = s,
                        .shape = &h,
                        .in = part->in,
                        .weight = part->weight,
                        .bias = part->bias,
                        .out = part->out,
                        .first_group = g,
                        .groups = fc_min(groups, s->groups - g),
                        .first_filter = f,
                        .filters = fc_min(filters, s->filters - f),
                        .workspace = part->workspace,
                        .threads = threads,
                        .streamed = written >= FC_STREAMED && read + written >= TOUCHED};
            if (plan->problem.pass != FC_FORWARD && !turn)
                p.unturned = part->weight;
            if (turn) {
                char *to = part->workspace + (size_t)threads * h.worker;
                turned t = {plan, s, part->weight, to, g, f, p.filters};
                fc_parallel(threads, p.groups * fc_ceil_div(p.filters, TURN_FILTERS), turn_filters, &t);
                p.weight = to;
            }
            /* as many tasks for every thread, or several, if they are not alike: each block packs its boxes once more. How many does
             * not change a bit of the result. */
            const ptrdiff_t *c = h.boxes.count, boxes = p.groups * h.boxes.total;
            const bool alike = h.boxes.total * c[0] * c[1] * c[2] * c[3] == s->batch * fc_sweep_places(s);
            ptrdiff_t wanted = 1;
            while (threads > 1 &&
                   !(alike ? shared_evenly(boxes * wanted, threads) : boxes * wanted >= TASKS_EACH * threads))
                wanted++;
            ptrdiff_t least = fc_ceil_div(p.filters, h.filters), most = fc_ceil_div(p.filters, h.panel_rows);
            p.filter_blocks = fc_max(fc_min(wanted, most), least);
            fc_parallel(threads, p.groups * p.filter_blocks * h.boxes.total, run_box, &p);
        }
}

size_t fc_planes_workspace(const fc_conv_plan *plan, bool packed, int threads)
{
    const ptrdiff_t parts = fc_sweep_parts(plan);
    size_t most = 0;
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep of_planes = fc_sweep_part(plan, i, &offset), s = fc_sweep_in_a_row(&of_planes);
        ptrdiff_t groups, filters;
        size_t size = shape_of(plan, &s, packed).worker * (size_t)threads;
        if (round_of(plan, &s, packed, &groups, &filters))
            size += (size_t)(groups * filters * fc_sweep_depth(&s)) * fc_size_of(plan->problem.dtype);
        most = size > most ? size : most;
    }
    return most + fc_part_weight_bytes(plan);
}

void fc_planes_run(const fc_conv_plan *plan, bool packed, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    fc_parts_run(plan, arrays, workspace, threads, run_part, packed);
}

/* Cycles of one tile's step k, at two multiply-adds a cycle, against what feeds it: a packed tile copies its columns once a block, in pieces
 * where rows of places end; a direct one loads across cache lines, and computes the positions between rows too. */
static double sweep_cost(const fc_conv_plan *plan, const fc_sweep *s, bool packed)
{
    const fc_conv_problem *p = &plan->problem;
    shape h = shape_of(plan, s, packed);
    fc_box box = {.count = {h.boxes.count[0], h.boxes.count[1], h.boxes.count[2], h.boxes.count[3]}};
    fc_stage stage = stage_of(plan, s, &box, &h);
    double vectors = (double)h.width / (double)plan->kernels->lanes, tiles = (double)h.tiles, runs = (double)h.runs;
    if (packed && fc_stage_positions(&stage) == fc_box_places(&box))
        runs = tiles;
    const bool by_rows = takes_rows(s, &box, &h);
    if (by_rows)
        tiles = (double)(box.count[0] * box.count[1] * box.count[2] * fc_ceil_div(box.count[3], plan->kernels->lanes)) /
                vectors;
    double panels = (double)fc_ceil_div(s->filters, h.panel_rows), rows = (double)s->filters / panels;
    double step = rows * vectors / 2, loads = rows / 2 + vectors;
    double feed = packed ? 0 : vectors / 2; /* the second line of a load that crosses two */
    double cycles = panels * tiles * (step > loads + feed ? step : loads + feed) +
                    (packed && !h.unpacked && !h.kept ? runs * 4 + tiles * vectors : 0);
    const double vector_cycles = s->axis[2].step == 1                                                   ? STAGE_CYCLES
                                 : s->axis[2].step <= MOST_PHASES && fc_stage_has_all_phases(s, &stage) ? PHASES_CYCLES
                                 : s->axis[2].step == 2                                                 ? TWOS_CYCLES
                                                                                                        : STEPS_CYCLES,
                 staged = h.in_place ? 0
                                     : (double)stage.pitch / (double)fc_max(fc_sweep_taps(s), 1) /
                                           (double)plan->kernels->lanes * vector_cycles;
    /* tiles that hold ends of rows are copied, once their reduction is done: two stretches of each filter */
    const bool whole = by_rows || (s->axis[2].output_step == 1 && box.count[3] == s->axis[2].output &&
                                   (packed || stage.length[2] == box.count[3])); /* rows follow one another */
    const bool fitting = packed && box.count[3] % h.width == 0;
    const double ends = whole || fitting ? 0 : (double)(box.count[0] * box.count[1] * box.count[2]);
    cycles += panels * rows * ends * END_CYCLES / (double)fc_max(fc_sweep_depth(s), 1);
    if (h.kind == FC_WIDE) /* measured: few rows' sums wait for their loads */
        cycles *= 1.8;
    if (by_rows) /* measured: an eighth, for tiles that begin and end, and columns from the second-level cache */
        cycles *= 1.125;
    if (!packed && fc_sweep_in_place(s)) /* measured: a tenth, for columns that lie a plane apart */
        cycles *= 1.1;
    /* measured: the tiles' sums wait to be written */
    const double sums = packed && !h.in_place ? SUM_CYCLES * panels * rows * tiles * vectors : 0;
    double turned = 0;
    if (plan->problem.pass != FC_FORWARD && p->kernel[0] * p->kernel[1] * p->kernel[2] > 1)
        turned =
            (fc_sweep_taps(s) == p->kernel[0] * p->kernel[1] * p->kernel[2] ? 1 : 2) * TURN_CYCLES * (double)s->filters;
    return (((cycles + staged) * (double)fc_sweep_depth(s) + sums) * (double)h.boxes.total +
            turned * (double)fc_sweep_depth(s)) *
           (double)s->groups;
}

double fc_planes_cost(const fc_conv_plan *plan, bool packed)
{
    double cycles = 0;
    const ptrdiff_t parts = fc_sweep_parts(plan);
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep of_planes = fc_sweep_part(plan, i, &offset), s = fc_sweep_in_a_row(&of_planes);
        cycles += sweep_cost(plan, &s, packed);
    }
    return cycles / FC_NOMINAL_HERTZ;
}

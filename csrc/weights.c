/* weights.c -- the weight gradient: a product that reduces over places.
 *
 * Channels first: (channel, tap) rows times filter columns. The image's rows lie along the reduction as they are; dy is transposed.
 * Where each place is a pixel, either side may be the one that is transposed: the one that costs less.
 * Channels last: filter rows times (tap, channel) columns. Both sides lie across the reduction as they are.
 * Of a kernel whose taps are taken apart, each tap has a gradient of its own, over its own places.
 * Either way the gradient is cut into blocks, and the places, where blocks alone would not feed many threads, into a fixed number of
 * splits, whose sums are added in order. */
#include "conv.h"

typedef struct shape {
    bool last;                           /* channels last */
    bool in_place;                       /* channels first, and each place is a pixel */
    bool direct;                         /* few places: sums are taken where the gradient lies */
    bool filters_down;                   /* filters are the rows of the product, and not its columns */
    bool together;                       /* in place, one chunk: columns are transposed once, for all blocks */
    ptrdiff_t rows, columns;             /* of the whole product, per group */
    ptrdiff_t block_rows, block_columns; /* of a block */
    ptrdiff_t row_blocks, column_blocks, blocks, splits;
    ptrdiff_t panel_rows, width;       /* of a tile */
    int kind;                          /* FC_NARROW, FC_SLIM or, if direct, perhaps FC_WIDE */
    fc_boxes boxes;                    /* channels first: each a block of the reduction */
    ptrdiff_t chunks;                  /* blocks of the reduction, either way */
    ptrdiff_t stage_rows, stage, runs; /* channels first: rows staged at once, elements, runs of a box */
    ptrdiff_t a, b, sums;              /* elements */
    ptrdiff_t packed;                  /* together: elements of all columns */
    size_t worker, shared, bias;       /* bytes; bias: of the sums of dy, if they are taken */
} shape;

typedef struct weights {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    const shape *shape;
    const char *x, *dy;
    char *dweight, *workspace, *shared;
    double *totals; /* of dy, [split][filter]; or NULL */
} weights;

enum {
    BLOCK_ELEMENTS = 256 << 10,
    BLOCK_COLUMNS = 512,
    BLOCK_PRODUCTS = 1 << 20, /* of a block, where many are wanted: makes up for its setup */
    FEW_PANELS = 4,           /* of such a block's sides, at least: each is read once for those of the other */
    TASKS = 16,
    FEW_PLACES = 1024,
    FEW_BLOCKS = 4,
    MANY_ROWS = 6,    /* of a wide tile: they are worth more than a line of columns in a step, */
    SHORT_DEPTH = 16, /* and few steps are. Measured on Zen 3, AVX2 and the baseline */
    PIXELS_AHEAD = 4, /* that are fetched while one is packed */
    COMBINED = 4,     /* places, at most, whose pixels are summed row by row as they lie */
    STAGE_CHANNELS = 16,
    DEPTH = 2 * FC_DEPTH,   /* channels first: of a block of the reduction; sums are many, and fetched half as often */
    LDA = DEPTH + 16,       /* not a power of two: rows must not share cache sets */
    FEW_LDA = FC_DEPTH + 16 /* the same of few places */
};

/* Cycles of the product of so many places, of which `columns` are transposed and lie across the tile, and, by turns, the result is. */
static double cost_of(const fc_kernels *kernels, ptrdiff_t places, ptrdiff_t rows, ptrdiff_t columns, bool turned)
{
    const double lanes = (double)kernels->lanes, across = (double)fc_round_up(columns, kernels->width[FC_NARROW]),
                 transposed = (double)places * (double)columns + (turned ? (double)rows * (double)columns : 0);
    return (double)places * (double)rows * across / lanes / 2 + transposed * 8 / lanes;
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), taps = fc_sweep_taps(s),
                    depth = s->channels * taps;
    shape h = {.last = plan->problem.layout == FC_CHANNELS_LAST};
    h.in_place = !h.last && fc_sweep_in_place(s);
    const ptrdiff_t places = s->batch * fc_sweep_places(s);
    h.filters_down = h.last || (h.in_place && cost_of(plan->kernels, places, s->filters, depth, false) <
                                                  cost_of(plan->kernels, places, depth, s->filters, true));
    h.rows = h.filters_down ? s->filters : depth;
    h.columns = h.filters_down ? depth : s->filters;
    const bool few = places < FEW_PLACES;
    if (!h.last)
        h.boxes = fc_boxes_of(s, DEPTH, 1);
    h.direct = h.last ? taps == 1 && few : h.in_place && h.filters_down && h.boxes.total == 1;
    /* of a wide tile, a row's columns are written together; but its few rows may read more of them than they are worth */
    const bool thirsty =
                   plan->kernels->rows[FC_WIDE] < MANY_ROWS && plan->kernels->width[FC_WIDE] * element > FC_ALIGNMENT,
               wide = !thirsty || places < SHORT_DEPTH;
    h.kind = FC_NARROW;
    if (h.last && h.direct && wide)
        h.kind = FC_WIDE;
    else if (!h.last && h.columns <= plan->kernels->width[FC_SLIM])
        h.kind = FC_SLIM;
    h.width = plan->kernels->width[h.kind];
    h.panel_rows =
        fc_ceil_div(h.rows, fc_ceil_div(h.rows, plan->kernels->rows[h.kind == FC_SLIM ? FC_NARROW : h.kind]));
    h.block_columns = fc_min(fc_round_up(h.columns, h.width), fc_round_up(BLOCK_COLUMNS, h.width));
    /* few places: a split would cost more in sums than it takes off the product; smaller blocks make up for it, most of
     * all where nothing else can */
    const ptrdiff_t elements = (few ? BLOCK_ELEMENTS / 2 : BLOCK_ELEMENTS) / (h.last && h.direct ? 2 : 1),
                    most = fc_max(elements / h.block_columns / h.panel_rows, 1) * h.panel_rows;
    h.row_blocks = fc_ceil_div(h.rows, most);
    h.column_blocks = fc_ceil_div(h.columns, h.block_columns);
    if (h.in_place && h.boxes.total == 1) { /* blocks for all threads, not too narrow either way */
        const ptrdiff_t whole = fc_round_up(h.columns, h.width),
                        worth =
                            fc_max(fc_min(TASKS, h.rows * places / fc_max(BLOCK_PRODUCTS / whole, 1)) / s->groups, 1);
        h.row_blocks =
            fc_max(h.row_blocks, fc_min(fc_ceil_div(worth, h.column_blocks), h.rows / (FEW_PANELS * h.panel_rows)));
        h.column_blocks =
            fc_max(h.column_blocks, fc_min(fc_ceil_div(worth, h.row_blocks), whole / (FEW_PANELS * h.width)));
        h.block_columns = fc_round_up(fc_ceil_div(h.columns, h.column_blocks), h.width);
        h.column_blocks = fc_ceil_div(h.columns, h.block_columns);
    }
    if (few && h.row_blocks > 1 && h.row_blocks < TASKS && s->groups * h.column_blocks % 2)
        h.row_blocks = fc_round_up(h.row_blocks, 2); /* two threads have as many each */
    h.block_rows = fc_round_up(fc_ceil_div(h.rows, h.row_blocks), h.panel_rows);
    h.row_blocks = fc_ceil_div(h.rows, h.block_rows);
    h.blocks = s->groups * h.row_blocks * h.column_blocks;
    h.sums = h.direct ? h.panel_rows * h.width : h.block_rows * h.block_columns;

    if (h.last) {
        h.chunks = fc_ceil_div(places, FC_DEPTH);
        h.a = fc_round_up(h.block_rows, h.panel_rows) * (h.direct ? FEW_LDA : FC_DEPTH);
        h.b = h.direct ? fc_min(places, FC_DEPTH) * h.block_columns : FC_DEPTH * h.width;
    } else {
        h.chunks = h.boxes.total;
        fc_box box = {.count = {h.boxes.count[0], h.boxes.count[1], h.boxes.count[2], h.boxes.count[3]}};
        fc_stage stage = fc_stage_of(s, &box);
        h.stage_rows = fc_min(fc_round_up(STAGE_CHANNELS * taps, h.panel_rows), h.block_rows);
        h.stage_rows = fc_max(fc_min(h.stage_rows, 4096 / h.panel_rows * h.panel_rows), h.panel_rows);
        h.stage = h.in_place ? 0 : fc_min(fc_ceil_div(h.stage_rows, taps) + 1, s->channels) * stage.pitch + FC_SLACK;
        h.runs = box.count[0] * box.count[1] * box.count[2];
        h.a = h.panel_rows * LDA;
        h.b = DEPTH * h.block_columns;
        h.packed = s->groups * h.column_blocks * places * h.block_columns;
        h.together =
            h.in_place && h.chunks == 1 && h.row_blocks > 1 && h.packed <= (ptrdiff_t)fc_part_limit(plan) / 4 / element;
        if (h.together)
            h.b = 0;
        else
            h.packed = 0;
    }
    ptrdiff_t room = fc_max((ptrdiff_t)fc_part_limit(plan) / 2 / element / (h.blocks * h.sums), 1);
    h.splits = fc_max(fc_min(fc_min(fc_ceil_div(TASKS, h.blocks), h.chunks), room), 1);
    if (h.direct || h.together || (few && h.blocks >= FEW_BLOCKS))
        h.splits = 1;
    h.worker = (size_t)(fc_round_up((h.a + h.b + h.stage + (h.splits == 1 ? h.sums : 0)) * element, FC_ALIGNMENT) +
                        6 * FC_ALIGNMENT +
                        fc_round_up(2 * h.runs * (ptrdiff_t)sizeof(fc_run) + DEPTH * (ptrdiff_t)sizeof(fc_piece),
                                    FC_ALIGNMENT));
    h.shared = (size_t)fc_round_up((h.splits == 1 ? h.packed : h.blocks * h.splits * h.sums) * element, FC_ALIGNMENT);
    h.bias = (size_t)(h.splits * s->groups * s->filters) * sizeof(double);
    if (h.last || h.bias > fc_part_limit(plan) / 8) /* dy is summed up in a pass of its own */
        h.bias = 0;
    return h;
}

/* A block of the product: its group, and where it begins and ends. */
typedef struct block {
    ptrdiff_t group, row, rows, column, columns;
} block;

static block block_at(const shape *h, ptrdiff_t index)
{
    block b = {.column = index % h->column_blocks * h->block_columns,
               .row = index / h->column_blocks % h->row_blocks * h->block_rows,
               .group = index / h->column_blocks / h->row_blocks};
    b.rows = fc_min(h->block_rows, h->rows - b.row);
    b.columns = fc_min(h->block_columns, h->columns - b.column);
    return b;
}

/* Where the sums of dy of a split's block begin; or NULL, if it is not this block that takes them. */
static double *totals_of(const weights *p, const block *b, ptrdiff_t split)
{
    const ptrdiff_t filters = p->sweep->filters;
    if (!p->totals || (p->shape->filters_down ? b->column : b->row))
        return NULL;
    return p->totals + (split * p->sweep->groups + b->group) * filters + (p->shape->filters_down ? b->row : b->column);
}

/* Adds `count` rows of dy to their totals. */
static void add_rows(const weights *p, double *totals, const char *from, ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t n)
{
    for (ptrdiff_t r = 0; totals && r < count; r++)
        fc_bias_sum(p->plan, from + r * pitch * (ptrdiff_t)fc_size_of(p->plan->problem.dtype), n, totals + r);
}

/* ---- channels first ------------------------------------------------------------------------------------------- */

/* The lines of a box as runs: from the stage, and from an image of dy, each to their place in the reduction. */
static ptrdiff_t list_lines(const fc_sweep *s, const fc_stage *stage, fc_run *in, fc_run *out)
{
    const fc_axis *ax = s->axis;
    const ptrdiff_t *n = stage->box.count, *first = stage->box.first, *length = stage->length;
    const ptrdiff_t image = s->groups * s->filters * fc_sweep_output(s);
    ptrdiff_t count = 0, to = 0;
    for (ptrdiff_t i = 0; i < n[0]; i++)
        for (ptrdiff_t d = 0; d < n[1]; d++)
            for (ptrdiff_t h = 0; h < n[2]; h++, count++, to += n[3]) {
                in[count] = (fc_run){((i * length[0] + d) * length[1] + h) * length[2], to, n[3]};
                out[count] = (fc_run){
                    (first[0] + i) * image +
                        ((ax[0].output_first + first[1] + d) * ax[1].output + ax[1].output_first + first[2] + h) *
                            ax[2].output +
                        ax[2].output_first + first[3],
                    to, n[3]};
            }
    return count;
}

/* Joins runs that continue one another, so that whole planes are taken in one go. */
static ptrdiff_t join(fc_run *runs, ptrdiff_t count)
{
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 1; i < count; i++)
        if (runs[kept].from + runs[kept].length == runs[i].from)
            runs[kept].length += runs[i].length;
        else
            runs[++kept] = runs[i];
    return kept + 1;
}

static void sum_first(const weights *p, const block *b, ptrdiff_t chunk0, ptrdiff_t chunk1, char *space, char *sums,
                      double *totals)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), taps = fc_sweep_taps(s),
                    plane = fc_sweep_output(s);
    char *a = fc_take(&space, h->a * element), *packed = fc_take(&space, h->b * element),
         *staged = fc_take(&space, h->stage * element);
    fc_run *in = fc_take(&space, 0), *out = in + h->runs;
    for (ptrdiff_t chunk = chunk0; chunk < chunk1; chunk++) {
        fc_box box = fc_box_at(s, &h->boxes, chunk);
        fc_stage stage = fc_stage_of(s, &box);
        ptrdiff_t places = fc_box_places(&box), lines = list_lines(s, &stage, in, out);
        ptrdiff_t in_runs = join(in, lines), out_runs = join(out, lines);
        for (ptrdiff_t j = 0; j < b->columns; j += h->width) { /* dy, transposed: [panel][place][width] */
            ptrdiff_t columns = fc_min(h->width, b->columns - j);
            char *to = packed + j * DEPTH * element;
            if (columns < h->width)
                memset(to, 0, (size_t)(places * h->width * element));
            for (ptrdiff_t r = 0; r < out_runs; r++) {
                const char *from = p->dy + ((b->group * s->filters + b->column + j) * plane + out[r].from) * element;
                add_rows(p, totals ? totals + j : NULL, from, plane, columns, out[r].length);
                kernels->transpose(from, plane, to + out[r].to * h->width * element, h->width, columns, out[r].length);
            }
        }
        for (ptrdiff_t first = 0; first < b->rows; first += h->stage_rows) {
            ptrdiff_t last = fc_min(first + h->stage_rows, b->rows), c0 = (b->row + first) / taps;
            fc_stage_fill(p->plan, s, &stage, b->group, c0, (b->row + last - 1) / taps + 1, p->x, staged);
            for (ptrdiff_t i = first; i < last; i += h->panel_rows) {
                ptrdiff_t rows = fc_min(h->panel_rows, last - i), offsets[FC_MAX_ROWS];
                fc_stage_offsets(s, &stage, b->row + i, rows, c0, offsets);
                for (ptrdiff_t r = 0; r < rows; r++)
                    kernels->copy_runs(in, in_runs, staged + offsets[r] * element, a + r * LDA * element);
                for (ptrdiff_t j = 0; j < b->columns; j += h->width) {
                    fc_tile t = {.a = a,
                                 .b = packed + j * DEPTH * element,
                                 .depth = places,
                                 .lda = LDA,
                                 .ldb = h->width,
                                 .c = sums + (i * h->block_columns + j) * element,
                                 .ldc = h->block_columns,
                                 .accumulate = chunk > chunk0};
                    kernels->tile_rows[h->kind][rows - 1](&t);
                }
            }
        }
    }
}

/* Up to a tile's columns from `column` on, of a box of places, transposed: [place][width]. totals: of dy, if it is dy, or NULL. */
static void pack_panel(const weights *p, ptrdiff_t group, ptrdiff_t column, const fc_box *box, char *to, double *totals)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_axis *ax = s->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), plane = fc_sweep_input(s),
                    image = s->groups * h->columns * plane, columns = fc_min(h->width, h->columns - column),
                    start = (box->first[1] * ax[1].places + box->first[2]) * ax[2].places + box->first[3],
                    length = box->count[1] * box->count[2] * box->count[3];
    const char *from = h->filters_down ? p->x : p->dy;
    from += (box->first[0] * image + (group * h->columns + column) * plane + start) * element;
    if (columns < h->width)
        memset(to, 0, (size_t)(fc_box_places(box) * h->width * element));
    for (ptrdiff_t n = 0; n < box->count[0]; n++, from += image * element, to += length * h->width * element) {
        add_rows(p, totals, from, plane, columns, length);
        p->plan->kernels->transpose(from, plane, to, h->width, columns, length);
    }
}

/* The same for all blocks. */
static void pack_together(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const weights *p = context;
    const shape *h = p->shape;
    const fc_box box = fc_box_at(p->sweep, &h->boxes, 0);
    const ptrdiff_t panels = fc_ceil_div(h->columns, h->width), group = index / panels,
                    column = index % panels * h->width, places = fc_box_places(&box),
                    element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    double *totals = NULL;
    if (p->totals && !h->filters_down) {
        totals = p->totals + group * h->columns + column;
        memset(totals, 0, (size_t)fc_min(h->width, h->columns - column) * sizeof *totals);
    }
    pack_panel(p, group, column, &box,
               p->shared + (group * h->column_blocks * h->block_columns + column) * places * element, totals);
}

/* Each place is a pixel: the images of both sides lie alike, and so do a box's stretches of them. */
static void sum_in_place(const weights *p, const block *b, ptrdiff_t chunk0, ptrdiff_t chunk1, char *space, char *sums,
                         double *totals)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_axis *ax = s->axis;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), plane = fc_sweep_input(s),
                    down_image = s->groups * h->rows * plane;
    const char *down = h->filters_down ? p->dy : p->x;
    char *a = fc_take(&space, h->a * element), *packed = fc_take(&space, h->b * element);
    down += (b->group * h->rows + b->row) * plane * element;
    char *dweight = p->dweight + ((b->group * h->rows + b->row) * h->columns + b->column) * element; /* if direct */
    for (ptrdiff_t chunk = chunk0; chunk < chunk1; chunk++) {
        fc_box box = fc_box_at(s, &h->boxes, chunk);
        const ptrdiff_t start = (box.first[1] * ax[1].places + box.first[2]) * ax[2].places + box.first[3],
                        length = box.count[1] * box.count[2] * box.count[3], images = box.count[0],
                        places = images * length;
        if (h->together)
            packed = p->shared + (b->group * h->column_blocks * h->block_columns + b->column) * places * element;
        const bool copied = images > 1 || plane * element % FC_ALIAS == 0;
        for (ptrdiff_t j = 0; !h->together && j < b->columns; j += h->width)
            pack_panel(p, b->group, b->column + j, &box, packed + j * places * element,
                       totals && !h->filters_down ? totals + j : NULL);
        for (ptrdiff_t i = 0; i < b->rows; i += h->panel_rows) {
            const ptrdiff_t rows = fc_min(h->panel_rows, b->rows - i);
            const char *from = down + (box.first[0] * down_image + i * plane + start) * element;
            for (ptrdiff_t r = 0; copied && r < rows; r++)
                for (ptrdiff_t n = 0; n < images; n++)
                    kernels->copy(from + (n * down_image + r * plane) * element, a + (r * LDA + n * length) * element,
                                  length);
            const char *const lines = copied ? a : from;
            const ptrdiff_t lda = copied ? LDA : plane;
            if (h->filters_down)
                add_rows(p, totals ? totals + i : NULL, lines, lda, rows, places);
            for (ptrdiff_t j = 0; j < b->columns; j += h->width) {
                fc_tile t = {.a = lines,
                             .lda = lda,
                             .b = packed + j * places * element,
                             .ldb = h->width,
                             .depth = places,
                             .c = sums + (i * h->block_columns + j) * element,
                             .ldc = h->block_columns,
                             .accumulate = chunk > chunk0};
                const ptrdiff_t columns = fc_min(h->width, b->columns - j);
                const bool whole = columns == h->width;
                char *to = dweight + (i * h->columns + j) * element;
                if (h->direct) {
                    t.c = whole ? to : sums;
                    t.ldc = whole ? h->columns : h->width;
                }
                kernels->tile_rows[h->kind][rows - 1](&t);
                for (ptrdiff_t r = 0; h->direct && !whole && r < rows; r++)
                    kernels->copy(sums + r * h->width * element, to + r * h->columns * element, columns);
            }
        }
    }
}

/* ---- channels last -------------------------------------------------------------------------------------------- */

/* A block's columns of the places from the first-th on, a panel of `width` after the other: [panel][place][width]. */
static void pack_across(const weights *p, const block *b, ptrdiff_t first, ptrdiff_t places, fc_piece *pieces,
                        char *packed)
{
    const fc_sweep *s = p->sweep;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = p->shape->width,
                    pitch = s->groups * s->channels, all = s->batch * fc_sweep_places(s);
    ptrdiff_t j = 0;
    if (fc_sweep_in_place(s) && b->columns >= width) { /* a pixel at a time */
        const ptrdiff_t panels = b->columns / width;
        const char *from = p->x + (b->group * s->channels + b->column) * element;
        for (ptrdiff_t n = first; n < first + places; n++)
            p->plan->kernels->copy_columns(from + n * pitch * element,
                                           from + fc_min(n + PIXELS_AHEAD, all - 1) * pitch * element, panels, width,
                                           packed + (n - first) * width * element, places * width);
        j = panels * width;
    }
    for (; j < b->columns; j += width) {
        const ptrdiff_t columns = fc_min(width, b->columns - j);
        const ptrdiff_t count = fc_pieces_of(s, b->group, b->column + j, b->column + j + columns, pieces);
        char *to = packed + j * places * element;
        if (columns < width)
            memset(to, 0, (size_t)(places * width * element));
        fc_pieces_gather(p->plan, s, pieces, count, p->x, first, places, to, width);
    }
}

static void sum_last(const weights *p, const block *b, ptrdiff_t chunk0, ptrdiff_t chunk1, char *space, char *sums,
                     double *totals)
{
    (void)totals;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), all = s->batch * fc_sweep_places(s),
                    filters = s->groups * s->filters;
    char *a = fc_take(&space, h->a * element), *packed = fc_take(&space, h->b * element);
    fc_piece *pieces = fc_take(&space, 0);
    for (ptrdiff_t chunk = chunk0; chunk < chunk1; chunk++) {
        ptrdiff_t first = chunk * FC_DEPTH, places = fc_min(FC_DEPTH, all - first);
        for (ptrdiff_t i = 0; i < b->rows; i += h->panel_rows) { /* dy: [panel][place][rows] */
            ptrdiff_t rows = fc_min(h->panel_rows, b->rows - i);
            for (ptrdiff_t n = 0; n < places; n++)
                kernels->copy(p->dy + ((first + n) * filters + b->group * s->filters + b->row + i) * element,
                              a + (i * FC_DEPTH + n * rows) * element, rows);
        }
        for (ptrdiff_t j = 0; j < b->columns; j += h->width) {
            block panel = *b;
            panel.column += j;
            panel.columns = fc_min(h->width, b->columns - j);
            pack_across(p, &panel, first, places, pieces, packed);
            for (ptrdiff_t i = 0; i < b->rows; i += h->panel_rows) {
                fc_tile t = {.a = a + i * FC_DEPTH * element,
                             .b = packed,
                             .depth = places,
                             .lda = fc_min(h->panel_rows, b->rows - i),
                             .ldb = h->width,
                             .c = sums + (i * h->block_columns + j) * element,
                             .ldc = h->block_columns,
                             .accumulate = chunk > chunk0};
                kernels->tile_panel[FC_NARROW][fc_min(h->panel_rows, b->rows - i) - 1](&t);
            }
        }
    }
}

/* The same of few places, and one tap: the sums are the gradient as it lies, whose rows are written from left to right. */
static void sum_few(const weights *p, const block *b, char *space, char *sums)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), all = s->batch * fc_sweep_places(s),
                    filters = s->groups * s->filters;
    const char *dy = p->dy + (b->group * s->filters + b->row) * element;
    char *dweight = p->dweight + ((b->group * s->filters + b->row) * h->columns + b->column) * element;
    if (all <= COMBINED && fc_sweep_in_place(s)) {
        fc_combine row = {.step = filters,
                          .rows = p->x + (b->group * s->channels + b->column) * element,
                          .pitch = s->groups * s->channels,
                          .count = all,
                          .length = b->columns};
        for (ptrdiff_t i = 0; i < b->rows; i++) {
            row.coefficients = dy + i * element;
            row.out = dweight + i * h->columns * element;
            kernels->combine(&row);
        }
        return;
    }
    char *a = fc_take(&space, h->a * element), *packed = fc_take(&space, h->b * element);
    fc_piece *pieces = fc_take(&space, 0);
    for (ptrdiff_t first = 0; first < all; first += FC_DEPTH) {
        const ptrdiff_t places = fc_min(FC_DEPTH, all - first);
        pack_across(p, b, first, places, pieces, packed);
        kernels->transpose(dy + first * filters * element, filters, a, FEW_LDA, places, b->rows);
        for (ptrdiff_t i = 0; i < b->rows; i += h->panel_rows) {
            const ptrdiff_t rows = fc_min(h->panel_rows, b->rows - i);
            char *to = dweight + i * h->columns * element;
            for (ptrdiff_t j = 0; j < b->columns; j += h->width, to += h->width * element) {
                const ptrdiff_t columns = fc_min(h->width, b->columns - j);
                const bool whole = columns == h->width;
                const fc_tile t = {.a = a + i * FEW_LDA * element,
                                   .b = packed + j * places * element,
                                   .depth = places,
                                   .lda = FEW_LDA,
                                   .ldb = h->width,
                                   .c = whole ? to : sums,
                                   .ldc = whole ? h->columns : h->width,
                                   .accumulate = first > 0};
                for (ptrdiff_t r = 0; !whole && first && r < rows; r++)
                    kernels->copy(to + r * h->columns * element, sums + r * h->width * element, columns);
                kernels->tile_rows[h->kind][rows - 1](&t);
                for (ptrdiff_t r = 0; !whole && r < rows; r++)
                    kernels->copy(sums + r * h->width * element, to + r * h->columns * element, columns);
            }
        }
    }
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

/* A finished block to where it belongs in (filters, channels, taps). */
static void put(const weights *p, const block *b, const char *sums)
{
    const fc_sweep *s = p->sweep;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), taps = fc_sweep_taps(s),
                    depth = s->channels * taps;
    const ptrdiff_t pitch = p->shape->block_columns;
    if (!p->shape->filters_down) {
        p->plan->kernels->transpose(sums, pitch,
                                    p->dweight + ((b->group * s->filters + b->column) * depth + b->row) * element,
                                    depth, b->rows, b->columns);
        return;
    }
    for (ptrdiff_t i = 0; i < b->rows; i++) { /* columns: (tap, channel) */
        char *to = p->dweight + (b->group * s->filters + b->row + i) * depth * element;
        const char *from = sums + i * pitch * element;
        if (taps == 1) {
            p->plan->kernels->copy(from, to + b->column * element, b->columns);
            continue;
        }
        for (ptrdiff_t j = 0, c = b->column % s->channels, tap = b->column / s->channels, n; j < b->columns; j += n) {
            n = fc_min(b->columns - j, s->channels - c);
            if (element == 4)
                for (ptrdiff_t k = 0; k < n; k++)
                    ((float *)to)[(c + k) * taps + tap] = ((const float *)from)[j + k];
            else
                for (ptrdiff_t k = 0; k < n; k++)
                    ((double *)to)[(c + k) * taps + tap] = ((const double *)from)[j + k];
            c = 0;
            tap++;
        }
    }
}

static void run_split(void *context, ptrdiff_t index, int worker)
{
    const weights *p = context;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    ptrdiff_t split = index % h->splits, length = fc_ceil_div(h->chunks, h->splits);
    block b = block_at(h, index / h->splits);
    char *space = p->workspace + (size_t)worker * h->worker;
    char *sums = h->splits == 1 ? fc_take(&space, h->sums * element) : p->shared + index * h->sums * element;
    ptrdiff_t chunk0 = fc_min(split * length, h->chunks), chunk1 = fc_min(chunk0 + length, h->chunks);
    if (chunk0 == chunk1)
        memset(sums, 0, (size_t)(h->sums * element));
    double *totals = totals_of(p, &b, split);
    if (h->together && !h->filters_down)
        totals = NULL; /* are taken already */
    if (totals)
        memset(totals, 0, (size_t)(h->filters_down ? b.rows : b.columns) * sizeof *totals);
    if (h->last && h->direct) {
        sum_few(p, &b, space, sums);
        return;
    }
    (h->last ? sum_last : h->in_place ? sum_in_place : sum_first)(p, &b, chunk0, chunk1, space, sums, totals);
    if (h->splits == 1 && !h->direct)
        put(p, &b, sums);
}

static void add_splits(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const weights *p = context;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    block b = block_at(h, index);
    char *sums = p->shared + index * h->splits * h->sums * element;
    for (ptrdiff_t split = 1; split < h->splits; split++)
        p->plan->kernels->add(sums + split * h->sums * element, sums, b.rows * h->block_columns);
    put(p, &b, sums);
}

size_t fc_weights_workspace(const fc_conv_plan *plan, int threads)
{
    const ptrdiff_t parts = fc_sweep_parts(plan);
    size_t most = 0;
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep s = fc_sweep_part(plan, i, &offset);
        const shape h = shape_of(plan, &s);
        const size_t size = h.worker * (size_t)threads + h.shared + h.bias;
        most = size > most ? size : most;
    }
    return most + fc_part_weight_bytes(plan);
}

/* The first part, which has all places, sums dy up. */
bool fc_weights_sum_bias(const fc_conv_plan *plan)
{
    ptrdiff_t offset;
    const fc_sweep s = fc_sweep_part(plan, 0, &offset);
    return shape_of(plan, &s).bias > 0;
}

static void run_sweep(const fc_conv_plan *plan, const fc_sweep *s, const void *x, const void *dy, void *dweight,
                      void *dbias, char *workspace, int threads)
{
    const shape h = shape_of(plan, s);
    weights p = {.plan = plan,
                 .sweep = s,
                 .shape = &h,
                 .x = x,
                 .dy = dy,
                 .dweight = dweight,
                 .workspace = workspace,
                 .shared = workspace + (size_t)threads * h.worker};
    if (dbias && h.bias)
        p.totals = (double *)(p.shared + h.shared);
    if (h.together)
        fc_parallel(threads, s->groups * fc_ceil_div(h.columns, h.width), pack_together, &p);
    fc_parallel(threads, h.blocks * h.splits, run_split, &p);
    if (h.splits > 1)
        fc_parallel(threads, h.blocks, add_splits, &p);
    if (p.totals)
        fc_bias_put(plan, p.totals, h.splits, s->groups * s->filters, 0, s->groups * s->filters, dbias);
}

void fc_weights_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const size_t bytes = fc_part_weight_bytes(plan);
    const ptrdiff_t parts = fc_sweep_parts(plan);
    char *to = bytes ? workspace : arrays->weight;
    if (bytes && parts < plan->problem.kernel[0] * plan->problem.kernel[1] * plan->problem.kernel[2])
        memset(to, 0, bytes); /* there are taps that no place has */
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep s = fc_sweep_part(plan, i, &offset);
        run_sweep(plan, &s, arrays->x, arrays->y, to + offset, i ? NULL : arrays->bias, (char *)workspace + bytes,
                  threads);
    }
    if (bytes)
        fc_part_weights_back(plan, to, arrays->weight, threads);
}

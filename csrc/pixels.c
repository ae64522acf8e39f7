/* pixels.c -- forward and input gradient, channels last: places x (taps, channels) times (taps, channels) x filters.
 *
 * A task takes a range of places, and of panels of filters. Filters are the vector side of the tile, packed once for all tasks, or, where
 * the places are few, by the one task that needs them; the places' neighbourhoods are the broadcast side: copied row by row, a block
 * of the reduction at a time, or read in place where each is one pixel. */
#include "conv.h"

ptrdiff_t fc_pieces_of(const fc_sweep *s, ptrdiff_t group, ptrdiff_t k0, ptrdiff_t k1, fc_piece *pieces)
{
    const fc_axis *ax = s->axis;
    const ptrdiff_t all = s->groups * s->channels;
    /* taps next to each other read elements next to each other, if all channels are read */
    const bool merge = s->groups == 1 && ax[2].tap_step == 1;
    ptrdiff_t count = 0;
    for (ptrdiff_t k = k0; k < k1;) {
        ptrdiff_t c = k % s->channels, tap = k / s->channels, w = tap % ax[2].taps, h = tap / ax[2].taps % ax[1].taps;
        ptrdiff_t d = tap / ax[2].taps / ax[1].taps;
        ptrdiff_t room = merge ? (ax[2].taps - w) * s->channels - c : s->channels - c;
        pieces[count] = (fc_piece){.axis = {d * ax[0].tap_step, h * ax[1].tap_step},
                                   .element = w * ax[2].tap_step * all + group * s->channels + c,
                                   .to = k - k0,
                                   .length = fc_min(room, k1 - k)};
        k += pieces[count++].length;
    }
    return count;
}

void fc_pieces_gather(const fc_conv_plan *plan, const fc_sweep *s, const fc_piece *pieces, ptrdiff_t piece_count,
                      const void *in, ptrdiff_t first, ptrdiff_t count, void *to_, ptrdiff_t pitch)
{
    const fc_axis *ax = s->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), all = s->groups * s->channels,
                    row = ax[2].input * all;
    char *to = to_;
    ptrdiff_t w = first % ax[2].places, h = first / ax[2].places % ax[1].places,
              d = first / ax[2].places / ax[1].places % ax[0].places,
              n = first / ax[2].places / ax[1].places / ax[0].places;
    for (ptrdiff_t i = 0; i < count; i++, to += pitch * element) {
        ptrdiff_t id = ax[0].origin + d * ax[0].step, ih = ax[1].origin + h * ax[1].step,
                  start = (ax[2].origin + w * ax[2].step) * all, image = n * ax[0].input;
        for (ptrdiff_t p = 0; p < piece_count; p++) {
            ptrdiff_t pd = id + pieces[p].axis[0], ph = ih + pieces[p].axis[1], length = pieces[p].length;
            char *out = to + pieces[p].to * element;
            if (pd < 0 || pd >= ax[0].input || ph < 0 || ph >= ax[1].input) {
                memset(out, 0, (size_t)(length * element));
                continue;
            }
            ptrdiff_t e = start + pieces[p].element; /* may begin or end outside of the row, where there is padding */
            ptrdiff_t left = fc_min(fc_max(-e, 0), length), right = fc_max(fc_min(length, row - e), left);
            const char *from = (const char *)in + (((image + pd) * ax[1].input + ph) * row + e) * element;
            if (left)
                memset(out, 0, (size_t)(left * element));
            plan->kernels->copy(from + left * element, out + left * element, right - left);
            if (right < length)
                memset(out + right * element, 0, (size_t)((length - right) * element));
        }
        if (++w == ax[2].places) {
            w = 0;
            if (++h == ax[1].places) {
                h = 0;
                if (++d == ax[0].places) {
                    d = 0;
                    n++;
                }
            }
        }
    }
}

/* ---- a sweep ----------------------------------------------------------------------------------------------------- */

typedef struct shape {
    ptrdiff_t width, panels;             /* of filters: a panel's columns, and how many a group has */
    ptrdiff_t rows;                      /* places of a tile */
    ptrdiff_t places;                    /* of a task */
    ptrdiff_t depth, depth_blocks;       /* of the reduction */
    ptrdiff_t round_depth, round_panels; /* what is packed at once: rows of the reduction, panels of filters */
    ptrdiff_t own;                       /* or panels of filters that a task packs for itself, at most; else 0 */
    bool in_place;                       /* places' rows are read as they lie in memory */
    bool dense;                          /* places' results lie evenly spaced */
    size_t worker;                       /* bytes a worker needs */
} shape;

typedef struct pixels {
    const fc_conv_plan *plan;
    const fc_sweep *sweep;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *packed;                          /* packed: [panel][k][width], of the round */
    ptrdiff_t first_panel, panels, panel_blocks; /* of the round; panels are numbered through the groups */
    ptrdiff_t k0, k1;
    ptrdiff_t columns; /* of a task of run_rows */
    char *workspace;
} pixels;

enum {
    ROWS_AHEAD = 4,        /* of weights, that are fetched while one is packed */
    TILES = 8,             /* of a task, one below the other */
    OWN_TILES = 40,        /* of a task that packs its panels itself: the more, the less that costs */
    OWN_TILES_COPIED = 16, /* the same where places are copied */
    OWN_PANELS = 2,
    OWN_PANELS_COPIED = 8, /* whose packed block stays in the second-level cache beside the places' */
    OWN_PANELS_BACK = 16,  /* input gradient: rows of weights lie across the panels, and long ones are read faster */
    DOTS = 4,              /* places, at most, for which weights are not packed, */
    DOT_ROWS = 16,         /* but so many filters' at a time multiplied as they lie */
    ROW_PLACES = 4,        /* at most, nor are the input gradient's: */
    ROWS_TOGETHER = 8,     /* so many rows of so many columns are multiplied as they lie */
    ROW_SUMS = 8192, /* of all places together, at most: the longer rows are, the better the processor foresees them; */
    LEAST_COLUMNS = 512, /* at least, for threads to have some each */
};

static bool is_dense(const fc_sweep *s)
{
    bool dense = true;
    for (int a = 0; a < 3; a++)
        dense = dense && s->axis[a].output_step == 1 && s->axis[a].places == s->axis[a].output;
    return dense;
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), total = fc_sweep_depth(s),
                    all = s->batch * fc_sweep_places(s);
    shape h = {.width = plan->kernels->width[FC_NARROW],
               .rows = plan->kernels->rows[FC_NARROW],
               .in_place = fc_sweep_in_place(s) && s->groups * s->channels * element % FC_ALIAS != 0,
               .dense = is_dense(s)};
    h.panels = fc_ceil_div(s->filters, h.width);
    h.places = TILES * h.rows;
    h.depth = fc_ceil_div(total, fc_ceil_div(fc_max(total, 1), FC_DEPTH));
    ptrdiff_t room = (ptrdiff_t)(fc_part_limit(plan) / 2) / element / h.width; /* rows of panels */
    h.round_panels = fc_max(fc_min(room / fc_max(total, 1), s->groups * h.panels), 1);
    ptrdiff_t unit = fc_sweep_taps(s) == 1 ? h.depth : s->channels; /* rows that are packed together */
    h.round_depth = h.round_panels > 1 || room >= total ? total : fc_max(room / unit, 1) * unit;
    if (fc_sweep_taps(s) == 1 && all <= (h.in_place ? OWN_TILES : OWN_TILES_COPIED) * h.rows) {
        const bool back = plan->problem.pass == FC_BACKWARD_INPUT;
        h.own = back ? OWN_PANELS_BACK : h.in_place ? OWN_PANELS : OWN_PANELS_COPIED;
        h.own = fc_min(h.own, s->groups * h.panels);
        h.places = fc_max(all, 1);
        h.round_panels = s->groups * h.panels;
        h.round_depth = total;
    }
    h.worker =
        (size_t)(((h.in_place ? 0 : h.places * FC_LDA) + h.own * FC_DEPTH * h.width + h.rows * h.width + h.width) *
                     element +
                 FC_DEPTH * (ptrdiff_t)sizeof(fc_piece) + 5 * FC_ALIGNMENT);
    h.worker = (size_t)fc_round_up((ptrdiff_t)h.worker, FC_ALIGNMENT);
    return h;
}

static void pack_forward(const pixels *p, ptrdiff_t filter, ptrdiff_t columns, ptrdiff_t k0, ptrdiff_t k1, char *to)
{
    const fc_sweep *s = p->sweep;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), taps = fc_sweep_taps(s),
                    total = fc_sweep_depth(s);
    const ptrdiff_t width = p->shape->width;
    const char *from = p->weight + filter * total * element;
    if (taps == 1) {
        p->plan->kernels->transpose(from + k0 * element, total, to, width, columns, k1 - k0);
        return;
    }
    /* whole taps: row (tap, channel) comes from column (channel, tap) */
    ptrdiff_t t0 = k0 / s->channels, t1 = k1 / s->channels;
    for (ptrdiff_t c = 0; c < s->channels; c++)
        p->plan->kernels->transpose(from + (c * taps + t0) * element, total, to + c * width * element,
                                    s->channels * width, columns, t1 - t0);
}

static void pack_backward(const pixels *p, ptrdiff_t group, ptrdiff_t filter, ptrdiff_t columns, ptrdiff_t k0,
                          ptrdiff_t k1, char *to)
{
    const fc_sweep *s = p->sweep;
    const fc_axis *ax = s->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype),
                    kernel = ax[0].kernel * ax[1].kernel * ax[2].kernel;
    for (ptrdiff_t k = k0; k < k1; k++, to += p->shape->width * element) {
        ptrdiff_t c = k % s->channels, tap = k / s->channels, w = tap % ax[2].taps, h = tap / ax[2].taps % ax[1].taps,
                  d = tap / ax[2].taps / ax[1].taps;
        tap =
            ((ax[0].kernel_first + d * ax[0].kernel_step) * ax[1].kernel + ax[1].kernel_first + h * ax[1].kernel_step) *
                ax[2].kernel +
            ax[2].kernel_first + w * ax[2].kernel_step;
        const char *from = p->weight + (((group * s->channels + c) * s->filters + filter) * kernel + tap) * element;
        if (kernel == 1)
            p->plan->kernels->copy(from, to, columns);
        else
            p->plan->kernels->gather(from, kernel, to, columns);
    }
}

/* Rows k0 .. k1-1 of a panel: [k][width]. */
static void pack(const pixels *p, ptrdiff_t panel, ptrdiff_t k0, ptrdiff_t k1, char *to)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = p->shape->width;
    ptrdiff_t group = panel / p->shape->panels, filter = panel % p->shape->panels * width;
    ptrdiff_t columns = fc_min(width, p->sweep->filters - filter);
    if (columns < width)
        memset(to, 0, (size_t)((k1 - k0) * width * element));
    if (p->plan->problem.pass == FC_FORWARD)
        pack_forward(p, group * p->sweep->filters + filter, columns, k0, k1, to);
    else
        pack_backward(p, group, filter, columns, k0, k1, to);
}

static void pack_panel(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const pixels *p = context;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    pack(p, p->first_panel + index, p->k0, p->k1, p->packed + index * (p->k1 - p->k0) * p->shape->width * element);
}

/* Rows k0 .. k1-1 of panels first .. last-1, each as long as k1 - k0. */
static void pack_own(const pixels *p, ptrdiff_t first, ptrdiff_t last, ptrdiff_t k0, ptrdiff_t k1, char *to)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), pitch = (k1 - k0) * h->width;
    const ptrdiff_t taps = s->axis[0].kernel * s->axis[1].kernel * s->axis[2].kernel;
    while (first < last) {
        const ptrdiff_t group = first / h->panels, filter = first % h->panels * h->width;
        ptrdiff_t count = 0; /* of whole panels of one group, whose columns lie side by side */
        if (p->plan->problem.pass == FC_BACKWARD_INPUT && taps == 1)
            count = fc_min(fc_min(last, (group + 1) * h->panels) - first, (s->filters - filter) / h->width);
        for (ptrdiff_t k = k0; count && k < k1; k++) {
            const char *rows = p->weight + (group * s->channels * s->filters + filter) * element;
            p->plan->kernels->copy_columns(rows + k * s->filters * element,
                                           rows + fc_min(k + ROWS_AHEAD, s->channels - 1) * s->filters * element, count,
                                           h->width, to + (k - k0) * h->width * element, pitch);
        }
        if (!count) {
            count = 1;
            pack(p, first, k0, k1, to);
        }
        first += count;
        to += count * pitch * element;
    }
}

static ptrdiff_t output_offset(const pixels *p, ptrdiff_t place)
{
    const fc_sweep *s = p->sweep;
    const fc_axis *ax = s->axis;
    ptrdiff_t o[3];
    if (p->shape->dense)
        return place * s->groups * s->filters;
    for (int a = 2; a >= 0; a--) {
        o[a] = ax[a].output_first + place % ax[a].places * ax[a].output_step;
        place /= ax[a].places;
    }
    return (((place * ax[0].output + o[0]) * ax[1].output + o[1]) * ax[2].output + o[2]) * s->groups * s->filters;
}

/* One tile whose rows or columns are not all there, or not evenly spaced, through a whole one. */
static void put_tile(const pixels *p, fc_tile *t, fc_tile_kernel *kernel, ptrdiff_t place, ptrdiff_t rows,
                     ptrdiff_t columns, ptrdiff_t channel, char *whole)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), width = p->shape->width;
    if (t->accumulate)
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(whole + i * width * element, p->out + (output_offset(p, place + i) + channel) * element,
                   (size_t)(columns * element));
    t->c = whole;
    t->ldc = width;
    kernel(t);
    for (ptrdiff_t i = 0; i < rows; i++)
        memcpy(p->out + (output_offset(p, place + i) + channel) * element, whole + i * width * element,
               (size_t)(columns * element));
}

/* Part `part` of `parts` of the weights that panels first .. last-1 are packed of from k on: they come from afar. Forward, one tap. */
static void fetch(const pixels *p, ptrdiff_t first, ptrdiff_t last, ptrdiff_t k, ptrdiff_t part, ptrdiff_t parts)
{
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    const ptrdiff_t bytes = fc_min(h->depth, s->channels - k) * element;
    ptrdiff_t f0 = first / h->panels * s->filters + fc_min(first % h->panels * h->width, s->filters),
              f1 = last / h->panels * s->filters + fc_min(last % h->panels * h->width, s->filters), rows = f1 - f0;
    for (ptrdiff_t f = f0 + rows * part / parts; f < f0 + rows * (part + 1) / parts; f++)
        for (ptrdiff_t i = 0; i < bytes; i += FC_ALIGNMENT)
            __builtin_prefetch(p->weight + (f * s->channels + k) * element + i, 0, 2);
}

static void run_places(void *context, ptrdiff_t index, int worker)
{
    const pixels *p = context;
    const fc_sweep *s = p->sweep;
    const shape *h = p->shape;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), total = fc_sweep_depth(s),
                    all = s->batch * fc_sweep_places(s), lda = h->in_place ? s->groups * s->channels : FC_LDA;
    ptrdiff_t place = index / p->panel_blocks * h->places, places = fc_min(h->places, all - place);
    ptrdiff_t block = fc_ceil_div(p->panels, p->panel_blocks), j0 = index % p->panel_blocks * block,
              j1 = fc_min(j0 + block, p->panels);
    if (j0 >= j1)
        return;

    char *space = p->workspace + (size_t)worker * h->worker;
    char *rows = fc_take(&space, h->in_place ? 0 : h->places * FC_LDA * element),
         *own = fc_take(&space, h->own * FC_DEPTH * h->width * element),
         *whole = fc_take(&space, h->rows * h->width * element);
    char *bias = fc_take(&space, h->width * element);
    fc_piece *pieces = fc_take(&space, 0);

    ptrdiff_t k = p->k0;
    do {
        ptrdiff_t depth = fc_min(h->depth, p->k1 - k), gathered = -1, j_group;
        bool finish = k + depth == total;
        const char *packed = own;
        const ptrdiff_t panel_bytes = (h->own ? depth : p->k1 - p->k0) * h->width * element;
        ptrdiff_t tiles = 0, all_tiles = (j1 - j0) * fc_ceil_div(places, h->rows);
        if (h->own)
            pack_own(p, j0, j1, k, k + depth, own);
        else
            packed = p->packed + j0 * panel_bytes + (k - p->k0) * h->width * element;
        for (ptrdiff_t j = j0; j < j1; j++, packed += panel_bytes) {
            j_group = (p->first_panel + j) / h->panels;
            if (j_group != gathered && !h->in_place) {
                ptrdiff_t count = fc_pieces_of(s, j_group, k, k + depth, pieces);
                fc_pieces_gather(p->plan, s, pieces, count, p->in, place, places, rows, FC_LDA);
                gathered = j_group;
            }
            ptrdiff_t filter = (p->first_panel + j) % h->panels * h->width,
                      columns = fc_min(h->width, s->filters - filter);
            ptrdiff_t channel = j_group * s->filters + filter;
            if (p->bias && finish) {
                memset(bias, 0, (size_t)(h->width * element));
                memcpy(bias, p->bias + channel * element, (size_t)(columns * element));
            }
            const char *a = h->in_place ? p->in + (place * lda + j_group * s->channels + k) * element : rows;
            for (ptrdiff_t i = 0; i < places; i += h->rows) {
                ptrdiff_t count = fc_min(h->rows, places - i), offset = output_offset(p, place + i);
                ptrdiff_t ldc = count > 1 ? output_offset(p, place + i + 1) - offset : 0;
                fc_tile t = {.a = a + i * lda * element,
                             .lda = lda,
                             .b = packed,
                             .ldb = h->width,
                             .depth = depth,
                             .c = p->out + (offset + channel) * element,
                             .ldc = ldc,
                             .column_bias = p->bias && finish ? bias : NULL,
                             .accumulate = k > 0 || s->accumulate,
                             .relu = finish && p->plan->problem.relu && !s->apart};
                fc_tile_kernel *kernel = kernels->tile_rows[FC_NARROW][count - 1];
                if (columns == h->width && output_offset(p, place + i + count - 1) == offset + (count - 1) * ldc)
                    kernel(&t);
                else
                    put_tile(p, &t, kernel, place + i, count, columns, channel, whole);
                if (h->own &&
                    p->plan->problem.pass == FC_FORWARD) /* this task's next block, or the next task's first */
                    fetch(p, finish ? j1 : j0, finish ? fc_min(2 * j1 - j0, p->panels) : j1, finish ? 0 : k + depth,
                          tiles, all_tiles);
                tiles++;
            }
        }
        k += depth;
    } while (k < p->k1);
}

/* ---- few places ------------------------------------------------------------------------------------------------- */

static bool takes_dots(const fc_conv_plan *plan, const fc_sweep *s)
{
    return plan->problem.pass == FC_FORWARD && !s->accumulate && fc_sweep_in_place(s) &&
           s->batch * fc_sweep_places(s) <= DOTS;
}

static void run_dots(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const pixels *p = context;
    const fc_sweep *s = p->sweep;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), blocks = fc_ceil_div(s->filters, DOT_ROWS),
                    places = s->batch * fc_sweep_places(s), all = s->groups * s->filters;
    const ptrdiff_t group = index / blocks, first = index % blocks * DOT_ROWS, filter = group * s->filters + first,
                    rows = fc_min(DOT_ROWS, s->filters - first);
    char *out = p->out + filter * element;
    const fc_dots dots = {.rows = p->weight + filter * s->channels * element,
                          .row_count = rows,
                          .patches = p->in + group * s->channels * element,
                          .pitch = s->groups * s->channels,
                          .patch_count = places,
                          .depth = s->channels,
                          .bias = p->bias ? p->bias + filter * element : NULL,
                          .out = out,
                          .row_step = 1,
                          .patch_step = all};
    p->plan->kernels->dots(&dots);
    for (ptrdiff_t i = 0; p->plan->problem.relu && !s->apart && i < places; i++, out += all * element)
        p->plan->kernels->activate[FC_RELU](out, NULL, out, rows);
}

/* The input gradient of even fewer, one tap: each place's row is the sum of the weights' rows, which are read from end to end. */
static bool takes_rows(const fc_conv_plan *plan, const fc_sweep *s, const shape *h)
{
    return plan->problem.pass == FC_BACKWARD_INPUT && fc_sweep_in_place(s) && h->dense &&
           s->axis[0].kernel * s->axis[1].kernel * s->axis[2].kernel == 1 && s->filters >= plan->kernels->lanes &&
           s->batch * fc_sweep_places(s) <= ROW_PLACES;
}

static void run_rows(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const pixels *p = context;
    const fc_sweep *s = p->sweep;
    const fc_kernels *kernels = p->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), all = s->groups * s->filters,
                    blocks = fc_ceil_div(s->filters, p->columns), group = index / blocks,
                    column = index % blocks * p->columns, places = s->batch * fc_sweep_places(s);
    /* of FC_DEPTH rows at a time: more accurate than of all */
    _Alignas(FC_ALIGNMENT) char sums[ROW_SUMS * sizeof(double)];
    fc_combine row = {.step = 1, .pitch = s->filters, .length = fc_min(p->columns, s->filters - column)};
    for (ptrdiff_t k = 0; k < s->channels; k += row.count) {
        row.rows = p->weight + ((group * s->channels + k) * s->filters + column) * element;
        row.count = fc_min(ROWS_TOGETHER, s->channels - k);
        row.accumulate = k % FC_DEPTH > 0;
        for (ptrdiff_t i = 0; i < places; i++) {
            row.coefficients = p->in + ((i * s->groups + group) * s->channels + k) * element;
            row.out = sums + i * p->columns * element;
            kernels->combine(&row);
            if ((k + row.count) % FC_DEPTH == 0 || k + row.count == s->channels)
                (k >= FC_DEPTH || s->accumulate ? kernels->add : kernels->copy)(
                    row.out, p->out + (i * all + group * s->filters + column) * element, row.length);
        }
    }
}

static void run_part(const fc_part *part, int threads)
{
    const fc_sweep *s = part->sweep;
    const shape h = shape_of(part->plan, s);
    const ptrdiff_t total = fc_sweep_depth(s), panels = s->groups * h.panels,
                    blocks = fc_ceil_div(s->batch * fc_sweep_places(s), h.places);
    if (blocks == 0)
        return;
    pixels p = {.plan = part->plan,
                .sweep = s,
                .shape = &h,
                .in = part->in,
                .weight = part->weight,
                .bias = part->bias,
                .out = part->out,
                .packed = part->workspace + (size_t)threads * h.worker,
                .workspace = part->workspace};
    if (takes_dots(part->plan, s)) {
        fc_parallel(threads, s->groups * fc_ceil_div(s->filters, DOT_ROWS), run_dots, &p);
        return;
    }
    if (takes_rows(part->plan, s, &h)) {
        const ptrdiff_t most =
            fc_max(fc_min(fc_ceil_div(s->filters, threads), ROW_SUMS / (s->batch * fc_sweep_places(s))), LEAST_COLUMNS);
        /* about as many each: a last task of less than a vector would round in another way */
        p.columns = fc_ceil_div(s->filters, fc_ceil_div(s->filters, most));
        fc_parallel(threads, s->groups * fc_ceil_div(s->filters, p.columns), run_rows, &p);
        return;
    }
    ptrdiff_t k = 0;
    do {
        for (ptrdiff_t j = 0; j < panels; j += h.round_panels) {
            p.first_panel = j;
            p.panels = fc_min(h.round_panels, panels - j);
            p.k0 = k;
            p.k1 = fc_min(k + h.round_depth, total);
            ptrdiff_t wanted = threads == 1 ? 1 : fc_ceil_div(h.own ? 4 * threads : 2 * threads, blocks);
            if (h.own)
                wanted = fc_max(wanted, fc_ceil_div(p.panels, h.own));
            else
                fc_parallel(threads, p.panels, pack_panel, &p);
            p.panel_blocks = fc_min(wanted, p.panels);
            fc_parallel(threads, blocks * p.panel_blocks, run_places, &p);
        }
        k += h.round_depth;
    } while (k < total);
}

size_t fc_pixels_workspace(const fc_conv_plan *plan, int threads)
{
    const ptrdiff_t parts = fc_sweep_parts(plan);
    size_t most = 0;
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep s = fc_sweep_part(plan, i, &offset);
        shape h = shape_of(plan, &s);
        size_t size =
            h.worker * (size_t)threads +
            (h.own ? 0 : (size_t)(h.round_panels * h.round_depth * h.width) * fc_size_of(plan->problem.dtype));
        most = size > most ? size : most;
    }
    return most + fc_part_weight_bytes(plan);
}

void fc_pixels_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    fc_parts_run(plan, arrays, workspace, threads, run_part, true);
}

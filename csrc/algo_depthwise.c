/* algo_depthwise.c -- one input channel for each group: windows over planes, no matrix product.
 *
 * There is next to nothing to compute for each element that is read, so everything is about touching memory once.
 * Windows of 3x3 and 5x5 over planes have drivers of their own: depthwise_planes.c where planes are small and keep their size,
 * depthwise_lines.c otherwise, and depthwise_spread.c for the input gradient at stride 2; and so have planes that are much narrower than a
 * vector: depthwise_turned.c.
 * Planes: a plane, or some of its rows, is staged with its padding (a cheap copy), strides resolved as in stage.c;
 * kernels run along rows. Pixels: channels-last arrays are read where they lie, through pointers, those of the padding
 * to zeros; kernels run along channels. Channels-last arrays with several outputs for each channel, or with fewer
 * channels than a vector has lanes, are staged as planes too. Either way, kernels fetch what is touched next. */
#include "conv.h"

enum {
    STAGE_BYTES = 64 << 10,       /* of a box, staged: most planes are one box, and so are read in one go */
    MOST_STAGE_BYTES = 512 << 10, /* of all planes that are summed up into one: stays in the second-level cache */
    TASK_ELEMENTS = 32 << 10,     /* of a task: makes up for its setup */
    ADD_FILTERS = 64,             /* of a task that adds up splits: whole vectors */
    SPLIT_PIXELS = 64,            /* make up for a split's sums */
    TASKS = 32,                   /* of a weight gradient: more threads than that wait */
    PATIENCE = 256,               /* steps that a sum takes before it is added to a double one */
};

/* Element strides of an (N,C,D,H,W) or (N,D,H,W,C) array. */
typedef struct strides {
    ptrdiff_t image, channel, axis[3];
} strides;

static strides strides_of(fc_layout layout, ptrdiff_t channels, const ptrdiff_t size[3])
{
    strides s;
    bool first = layout == FC_CHANNELS_FIRST;
    s.channel = first ? size[0] * size[1] * size[2] : 1;
    s.axis[2] = first ? 1 : channels;
    s.axis[1] = s.axis[2] * size[2];
    s.axis[0] = s.axis[1] * size[1];
    s.image = channels * size[0] * size[1] * size[2];
    return s;
}

static strides strides_of_x(const fc_conv_problem *p) { return strides_of(p->layout, p->in_channels, p->input); }
static strides strides_of_y(const fc_conv_plan *plan)
{
    return strides_of(plan->problem.layout, plan->problem.out_channels, plan->output);
}

static bool by_pixels(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    return p->layout == FC_CHANNELS_LAST && p->out_channels == p->groups && p->groups >= plan->kernels->lanes;
}

/* ---- the sweeps -------------------------------------------------------------------------------------------------- */

/* Phases along an axis: 1 but for the input gradient of a strided convolution. */
static ptrdiff_t phases_along(const fc_conv_plan *plan, int a)
{
    const fc_conv_problem *p = &plan->problem;
    return p->pass == FC_BACKWARD_INPUT ? fc_min(p->stride[a], p->input[a]) : 1;
}

static ptrdiff_t phase_count(const fc_conv_plan *plan)
{
    return phases_along(plan, 0) * phases_along(plan, 1) * phases_along(plan, 2);
}

static fc_sweep sweep_of(const fc_conv_plan *plan, ptrdiff_t phase)
{
    fc_sweep s =
        plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, phase) : fc_sweep_forward(plan);
    s.batch = 1; /* images are tasks */
    return s;
}

/* A sweep whose stage serves all phases: along an axis that has several, it holds every coordinate that any of them
 * reads. */
static fc_sweep union_of(const fc_conv_plan *plan)
{
    fc_sweep all = sweep_of(plan, 0);
    ptrdiff_t stride = phase_count(plan);
    for (int a = 0; a < 3; a++) {
        ptrdiff_t phases = phases_along(plan, a), first = PTRDIFF_MAX, last = PTRDIFF_MIN;
        stride /= phases;
        if (phases == 1)
            continue;
        for (ptrdiff_t i = 0; i < phases; i++) {
            fc_sweep s = sweep_of(plan, i * stride);
            const fc_axis *axis = &s.axis[a];
            if (axis->taps) {
                first = fc_min(first, axis->origin);
                last = fc_max(last, axis->origin + (axis->taps - 1) * axis->tap_step);
            }
        }
        fc_axis *axis = &all.axis[a];
        const bool any = first <= last; /* what is in the padding alone depends on nothing */
        axis->origin = any ? first : 0;
        axis->taps = any ? last - first + 1 : 0;
        axis->tap_step = 1;
    }
    return all;
}

/* ---- planes: how a worker's share is laid out -------------------------------------------------------------------- */

/* One sweep of a box: its taps, and its weights among the reordered ones. */
typedef struct phase {
    fc_sweep sweep;
    int window;
    ptrdiff_t slices, width, taps; /* slices include the channels reduced over */
    ptrdiff_t weights;             /* offset of the first group's */
    ptrdiff_t count[3];            /* places in the box: phases of an axis may differ by one */
    ptrdiff_t *offsets;
} phase;

typedef struct shape {
    fc_sweep grid;
    ptrdiff_t inputs, outputs; /* of a group */
    ptrdiff_t phases, row_phases;
    bool direct; /* rows are written, or dy's read, as they lie */
    fc_boxes boxes;
    ptrdiff_t patches;           /* of a channel, at most */
    ptrdiff_t staged;            /* elements of a group, all boxes together */
    ptrdiff_t stage, line, temp; /* elements: of all inputs, of a row of temp, of temp */
    ptrdiff_t taps;              /* of a group, all phases together */
    ptrdiff_t sums;              /* weight gradient: elements, of a task's groups */
    ptrdiff_t groups;            /* weight gradient: of a task */
    ptrdiff_t blocks, splits;    /* weight gradient: group blocks, parts of the boxes and images */
    size_t worker, shared;       /* bytes */
} shape;

static ptrdiff_t subs_of(const fc_stage *s) { return s->subs[0] * s->subs[1] * s->subs[2]; }

static shape shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes;
    const bool sums = p->pass == FC_BACKWARD_WEIGHT, back = p->pass == FC_BACKWARD_INPUT;
    shape h = {.grid = union_of(plan), .phases = phase_count(plan), .row_phases = phases_along(plan, 2)};
    h.inputs = back ? p->out_channels / p->groups : 1;
    h.outputs = back ? 1 : p->out_channels / p->groups;
    h.taps = h.inputs * p->kernel[0] * p->kernel[1] * p->kernel[2];
    h.direct = p->layout == FC_CHANNELS_FIRST && h.phases == 1;
    ptrdiff_t places = STAGE_BYTES / element;
    for (;; places = fc_max(places * 3 / 4, 1)) {
        h.boxes = fc_boxes_of(&h.grid, places, 1);
        fc_box box = {.count = {h.boxes.count[0], h.boxes.count[1], h.boxes.count[2], h.boxes.count[3]}};
        fc_stage stage = fc_stage_of(&h.grid, &box);
        h.patches = subs_of(&stage) * stage.length[0];
        h.stage = h.inputs * stage.pitch + FC_SLACK;
        h.line = fc_round_up(box.count[3], lanes);
        /* a weight gradient takes from here, too, the rows of dy that no vector may overrun */
        h.temp = h.direct && !(sums && box.count[3] < lanes)
                     ? 0
                     : h.row_phases * box.count[1] * box.count[2] * h.line + FC_SLACK;
        h.groups = 1;
        h.sums = 0;
        h.shared = back ? (size_t)(p->groups * h.taps * element) : 0;
        if (sums) {
            ptrdiff_t most = fc_max(TASK_ELEMENTS / (fc_box_places(&box) * h.outputs), 1);
            h.groups = fc_max(fc_min(most, p->groups / TASKS), 1);
            h.blocks = fc_ceil_div(p->groups, h.groups);
            h.sums = h.groups * h.outputs * h.taps * lanes;
            ptrdiff_t room =
                fc_max((ptrdiff_t)(plan->limit / 2) / (p->out_channels * h.taps * (ptrdiff_t)sizeof(double)), 1);
            h.splits = fc_min(fc_min(fc_ceil_div(TASKS, h.blocks), h.boxes.total * p->batch), room);
            h.shared = (size_t)(h.splits * p->out_channels * h.taps) * sizeof(double);
        }
        h.worker = (size_t)(fc_round_up(h.stage * element, FC_ALIGNMENT) + fc_round_up(h.temp * element, FC_ALIGNMENT) +
                            fc_round_up(h.sums * element, FC_ALIGNMENT) +
                            fc_round_up(h.patches * (ptrdiff_t)sizeof(fc_patch), FC_ALIGNMENT) +
                            fc_round_up(h.phases * (ptrdiff_t)sizeof(phase), FC_ALIGNMENT) +
                            fc_round_up(h.taps * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT) + FC_ALIGNMENT);
        h.staged = h.boxes.total * h.inputs * stage.pitch;
        bool fits = stage.pitch * element <= STAGE_BYTES && h.inputs * stage.pitch * element <= MOST_STAGE_BYTES;
        if ((h.worker <= plan->limit / 2 && (fits || fc_box_places(&box) < 256)) || places == 1)
            return h;
    }
}

/* What a worker has set up for one box. */
typedef struct bench {
    const fc_conv_plan *plan;
    const shape *shape;
    fc_box box;
    fc_stage stage;
    char *staged, *temp, *sums;
    fc_patch *patches;
    ptrdiff_t patch_count;
    phase *phases;
} bench;

/* Of `taps` in a row, places `step` apart. */
static int window_of(ptrdiff_t taps, ptrdiff_t step)
{
    switch (step > 2 ? 0 : 10 * taps + step) {
    case 31:
        return FC_WINDOW_3;
    case 32:
        return FC_WINDOW_3_STEP_2;
    case 51:
        return FC_WINDOW_5;
    case 52:
        return FC_WINDOW_5_STEP_2;
    case 71:
        return FC_WINDOW_7;
    default:
        return FC_WINDOW_1;
    }
}

/* Whether the taps of each column read `step` rows that follow one another. */
static bool regular(const ptrdiff_t *offsets, ptrdiff_t height, ptrdiff_t width, ptrdiff_t step, ptrdiff_t pitch)
{
    for (ptrdiff_t k = step; k < height; k++)
        for (ptrdiff_t x = 0; x < width; x++)
            if (offsets[k * width + x] != offsets[(k - step) * width + x] + pitch)
                return false;
    return true;
}

static void prepare_phases(bench *b, ptrdiff_t *offsets)
{
    const shape *h = b->shape;
    const ptrdiff_t pitch = b->stage.length[2], step[3] = {b->stage.length[1] * pitch, pitch, 1};
    ptrdiff_t weights = 0;
    for (ptrdiff_t i = 0; i < h->phases; i++) {
        phase *f = &b->phases[i];
        *f = (phase){.sweep = sweep_of(b->plan, i), .offsets = offsets, .weights = weights};
        const fc_axis *ax = f->sweep.axis;
        ptrdiff_t taps = fc_sweep_taps(&f->sweep), shift = 0;
        for (int a = 0; a < 3; a++)
            f->count[a] = fc_max(fc_min(ax[a].places - b->box.first[a + 1], b->box.count[a + 1]), 0);
        f->taps = h->inputs * taps;
        offsets += f->taps;
        weights += b->plan->problem.groups * f->taps;
        f->width = f->taps;
        f->slices = 1;
        if (!taps)
            continue;
        fc_stage_offsets(&f->sweep, &b->stage, 0, f->taps, 0, f->offsets);
        for (int a = 0; a < 3; a++)
            if (phases_along(b->plan, a) > 1)
                shift += (ax[a].origin - h->grid.axis[a].origin) * step[a];
        for (ptrdiff_t t = 0; t < f->taps; t++)
            f->offsets[t] += shift;
        for (ptrdiff_t step = 1; step <= 2; step++) {
            int window = window_of(ax[1].taps, step);
            if (window == FC_WINDOW_1 || !regular(f->offsets, ax[1].taps, ax[2].taps, step, pitch))
                continue;
            f->window = window;
            f->width = ax[2].taps;
            f->slices = f->taps / (ax[1].taps * ax[2].taps);
            break;
        }
    }
}

/* Lists what of a channel's plane goes where in the stage, in the order of the stage. */
static void prepare_patches(bench *b, const strides *in)
{
    const fc_axis *ax = b->shape->grid.axis;
    const fc_stage *s = &b->stage;
    ptrdiff_t sub[3], to = 0;
    b->patch_count = 0;
    for (sub[0] = 0; sub[0] < s->subs[0]; sub[0]++)
        for (sub[1] = 0; sub[1] < s->subs[1]; sub[1]++)
            for (sub[2] = 0; sub[2] < s->subs[2]; sub[2]++, to += s->plane) {
                ptrdiff_t start[3], first[3], last[3]; /* coordinate of the first element; which are inside */
                for (int a = 0; a < 3; a++) {
                    start[a] = fc_stage_start(ax, s, a, sub[a]);
                    first[a] = start[a] >= 0 ? 0 : fc_min(fc_ceil_div(-start[a], ax[a].step), s->length[a]);
                    last[a] = start[a] >= ax[a].input
                                  ? 0
                                  : fc_min(fc_ceil_div(ax[a].input - start[a], ax[a].step), s->length[a]);
                }
                if (first[1] >= last[1] || first[2] >= last[2])
                    continue;
                for (ptrdiff_t d = first[0]; d < last[0]; d++)
                    b->patches[b->patch_count++] = (fc_patch){
                        .from = (start[0] + d * ax[0].step) * in->axis[0] +
                                (start[1] + first[1] * ax[1].step) * in->axis[1] +
                                (start[2] + first[2] * ax[2].step) * in->axis[2],
                        .from_pitch = ax[1].step * in->axis[1],
                        .step = ax[2].step * in->axis[2],
                        .to = to + (d * s->length[1] + first[1]) * s->length[2] + first[2],
                        .to_pitch = s->length[2],
                        .rows = last[1] - first[1],
                        .columns = last[2] - first[2],
                    };
            }
}

static bench prepare(const fc_conv_plan *plan, const shape *h, ptrdiff_t box, char *space, const strides *in)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype);
    bench b = {.plan = plan, .shape = h, .box = fc_box_at(&h->grid, &h->boxes, box)};
    b.stage = fc_stage_of(&h->grid, &b.box);
    b.staged = fc_take(&space, h->stage * element);
    b.temp = fc_take(&space, h->temp * element);
    b.sums = fc_take(&space, h->sums * element);
    b.patches = fc_take(&space, h->patches * (ptrdiff_t)sizeof(fc_patch));
    b.phases = fc_take(&space, h->phases * (ptrdiff_t)sizeof(phase));
    prepare_patches(&b, in);
    prepare_phases(&b, fc_take(&space, 0));
    /* the padding: zeros that stay */
    memset(b.staged, 0, (size_t)((h->inputs * b.stage.pitch + FC_SLACK) * element));
    return b;
}

static void stage_channel(const bench *b, const char *from, const char *from_end, char *to)
{
    for (ptrdiff_t i = 0; i < b->patch_count; i++)
        b->plan->kernels->place(&b->patches[i], from, from_end, to);
}

static fc_depthwise job_of(const bench *b, const phase *f)
{
    return (fc_depthwise){.in_pitch = b->stage.length[2],
                          .offsets = f->offsets,
                          .slices = f->slices,
                          .width = f->width,
                          .rows = f->count[1],
                          .columns = f->count[2],
                          .relu = b->plan->problem.relu};
}

/* ---- planes: forward and input gradient -------------------------------------------------------------------------- */

typedef struct planes {
    const fc_conv_plan *plan;
    const shape *shape;
    strides in, out;
    const char *x, *weight, *bias; /* x: what is read, dy for the input gradient */
    char *y, *workspace;
    ptrdiff_t blocks; /* of groups */
} planes;

/* Rows of all phases along the width, from temp to where they belong. */
static void put_rows(const planes *p, const bench *b, const phase *f, char *to)
{
    const shape *h = b->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype),
                    plane = b->box.count[1] * b->box.count[2] * h->line;
    const ptrdiff_t *count = f->count;
    const fc_axis *ax = f->sweep.axis;
    for (ptrdiff_t d = 0; d < count[0]; d++)
        for (ptrdiff_t r = 0; r < count[1]; r++) {
            const char *row = b->temp + (d * b->box.count[2] + r) * h->line * element;
            ptrdiff_t place = (ax[0].output_first + (b->box.first[1] + d) * ax[0].output_step) * p->out.axis[0] +
                              (ax[1].output_first + (b->box.first[2] + r) * ax[1].output_step) * p->out.axis[1];
            for (ptrdiff_t i = 0; i < h->row_phases; i++) {
                const fc_axis *w = &f[i].sweep.axis[2];
                char *first =
                    to + (place + (w->output_first + b->box.first[3] * w->output_step) * p->out.axis[2]) * element;
                const char *from = row + i * plane * element;
                ptrdiff_t step = w->output_step * p->out.axis[2];
                const ptrdiff_t columns = f[i].count[2];
                if (h->row_phases == 2 && step == 2) {
                    p->plan->kernels->interleave(from, from + plane * element, first, columns + f[1].count[2]);
                    break;
                }
                if (step == 1)
                    p->plan->kernels->copy(from, first, columns);
                else if (element == 4)
                    for (ptrdiff_t j = 0; j < columns; j++)
                        ((float *)first)[j * step] = ((const float *)from)[j];
                else
                    for (ptrdiff_t j = 0; j < columns; j++)
                        ((double *)first)[j * step] = ((const double *)from)[j];
            }
        }
}

/* While a plane is computed, the next group's is fetched, and, where rows are not written as they are computed, this
 * one's output. */
static void look_ahead(const planes *p, const shape *h, fc_depthwise *job, const char *next, const char *to,
                       ptrdiff_t output, ptrdiff_t phase, const ptrdiff_t count[3])
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), parts = h->phases > 1 ? h->phases / 2 : 1;
    const ptrdiff_t calls = fc_max(count[0] * count[1], 1) * parts;
    if (h->boxes.total > 1 || count[0] != 1)
        return;
    if (next && output == 0 && phase >= h->phases - parts)
        job->ahead[0] =
            (fc_ahead){next + (phase - (h->phases - parts)) * count[1] * (h->inputs * p->in.channel * element / calls),
                       h->inputs * p->in.channel * element / calls};
    if (h->phases > 1 && phase < parts)
        job->ahead[1] =
            (fc_ahead){to + phase * count[1] * (p->out.channel * element / calls), p->out.channel * element / calls};
}

static void run_planes(void *context, ptrdiff_t index, int worker)
{
    const planes *p = context;
    const fc_conv_plan *plan = p->plan;
    const fc_conv_problem *problem = &plan->problem;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype);
    ptrdiff_t box = index % h->boxes.total, block = index / h->boxes.total % p->blocks,
              n = index / h->boxes.total / p->blocks;
    ptrdiff_t first = block * problem->groups / p->blocks, last = (block + 1) * problem->groups / p->blocks;
    bench b = prepare(plan, h, box, p->workspace + (size_t)worker * h->worker, &p->in);
    const ptrdiff_t *box_first = b.box.first;
    const char *image = p->x + n * p->in.image * element, *end = p->x + problem->batch * p->in.image * element;
    char *out = p->y + n * p->out.image * element;
    const ptrdiff_t plane = b.box.count[1] * b.box.count[2] * h->line;

    for (ptrdiff_t g = first; g < last; g++) {
        for (ptrdiff_t i = 0; i < h->inputs; i++)
            stage_channel(&b, image + (g * h->inputs + i) * p->in.channel * element, end,
                          b.staged + i * b.stage.pitch * element);
        for (ptrdiff_t o = 0; o < h->outputs; o++) {
            ptrdiff_t channel = g * h->outputs + o;
            char *to = out + channel * p->out.channel * element;
            for (ptrdiff_t i = 0; i < h->phases; i++) {
                const phase *f = &b.phases[i];
                const ptrdiff_t *count = f->count, in_row = i % h->row_phases;
                fc_depthwise job = job_of(&b, f);
                job.weight = p->weight + (f->weights + channel * f->taps) * element;
                job.bias = p->bias ? p->bias + channel * element : NULL;
                look_ahead(p, h, &job, g + 1 < last ? image + (g + 1) * h->inputs * p->in.channel * element : NULL, to,
                           o, i, count);
                char *from;
                ptrdiff_t out_step;
                if (h->direct) {
                    from =
                        to + (box_first[1] * p->out.axis[0] + box_first[2] * p->out.axis[1] + box_first[3]) * element;
                    out_step = p->out.axis[0];
                    job.out_pitch = p->out.axis[1];
                    job.out_end =
                        h->boxes.total == 1
                            ? out + last * h->outputs * p->out.channel * element
                            : from + ((count[0] - 1) * out_step + (count[1] - 1) * job.out_pitch + count[2]) * element;
                } else {
                    from = b.temp + in_row * plane * element;
                    out_step = b.box.count[2] * h->line;
                    job.out_pitch = h->line;
                    job.out_end = b.temp + h->temp * element;
                }
                if (count[1] && count[2])
                    for (ptrdiff_t d = 0; d < count[0]; d++) {
                        job.in = b.staged + d * b.stage.length[1] * b.stage.length[2] * element;
                        job.out = from + d * out_step * element;
                        plan->kernels->depthwise[f->window](&job);
                    }
                if (!h->direct && in_row == h->row_phases - 1)
                    put_rows(p, &b, f - in_row, to);
            }
        }
    }
}

/* The input gradient's weights, in the order in which its phases take them: [phase][group][input][tap]. */
typedef struct turned {
    const fc_conv_plan *plan;
    const char *weight; /* (K, 1, kd, kh, kw) */
    char *to;
    bool pixels; /* [phase][tap][channel] instead */
} turned;

static void turn_phase(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const turned *t = context;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(t->plan->problem.dtype), *kernel = t->plan->problem.kernel;
    const ptrdiff_t filters = t->plan->problem.out_channels, volume = kernel[0] * kernel[1] * kernel[2];
    char *to = t->to;
    for (ptrdiff_t i = 0; i < index; i++) {
        fc_sweep s = sweep_of(t->plan, i);
        to += fc_sweep_taps(&s) * filters * element;
    }
    fc_sweep s = sweep_of(t->plan, index);
    const fc_axis *ax = s.axis;
    ptrdiff_t taps = fc_sweep_taps(&s);
    for (ptrdiff_t i = 0; i < taps; i++) {
        ptrdiff_t tap[3] = {i / (ax[1].taps * ax[2].taps), i / ax[2].taps % ax[1].taps, i % ax[2].taps}, k = 0;
        for (int a = 0; a < 3; a++)
            k = k * kernel[a] + ax[a].kernel_first + tap[a] * ax[a].kernel_step;
        const char *from = t->weight + k * element;
        char *first = to + i * (t->pixels ? filters : 1) * element;
        const ptrdiff_t step = t->pixels ? 1 : taps;
        if (element == 4)
            for (ptrdiff_t f = 0; f < filters; f++)
                ((float *)first)[f * step] = ((const float *)from)[f * volume];
        else
            for (ptrdiff_t f = 0; f < filters; f++)
                ((double *)first)[f * step] = ((const double *)from)[f * volume];
    }
}

static void planes_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const fc_conv_problem *problem = &plan->problem;
    shape h = shape_of(plan);
    bool back = problem->pass == FC_BACKWARD_INPUT;
    planes p = {.plan = plan, .shape = &h, .workspace = space, .bias = back ? NULL : arrays->bias};
    p.in = back ? strides_of_y(plan) : strides_of_x(problem);
    p.out = back ? strides_of_x(problem) : strides_of_y(plan);
    p.x = back ? arrays->y : arrays->x;
    p.y = back ? arrays->x : arrays->y;
    p.weight = arrays->weight;
    if (back) {
        char *to = space + (size_t)threads * h.worker;
        turned t = {plan, arrays->weight, to, false};
        fc_parallel(threads, h.phases, turn_phase, &t);
        p.weight = to;
    }
    /* how many groups a task has does not change a bit of the result */
    ptrdiff_t places = fc_max(h.boxes.count[1] * h.boxes.count[2] * h.boxes.count[3] * h.outputs * h.phases, 1);
    ptrdiff_t groups = fc_max(TASK_ELEMENTS / places, 1);
    if (threads > 1)
        groups = fc_min(groups, fc_max(problem->groups * problem->batch * h.boxes.total / (4 * threads), 1));
    p.blocks = fc_ceil_div(problem->groups, groups);
    fc_parallel(threads, problem->batch * p.blocks * h.boxes.total, run_planes, &p);
}

/* ---- planes: weight gradient ------------------------------------------------------------------------------------- */

typedef struct gradient {
    const fc_conv_plan *plan;
    const shape *shape;
    strides x_strides, y_strides;
    const char *x, *dy;
    char *workspace;
    double *totals;
} gradient;

static void run_gradient(void *context, ptrdiff_t index, int worker)
{
    const gradient *p = context;
    const fc_conv_plan *plan = p->plan;
    const fc_conv_problem *problem = &plan->problem;
    const fc_kernels *kernels = plan->kernels;
    const shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype), units = h->boxes.total * problem->batch;
    ptrdiff_t block = index % h->blocks, split = index / h->blocks;
    ptrdiff_t first = block * h->groups, last = fc_min(first + h->groups, problem->groups);
    ptrdiff_t unit0 = split * units / h->splits, unit1 = (split + 1) * units / h->splits;
    ptrdiff_t vectors = (last - first) * h->outputs * h->taps;
    double *totals = p->totals + (split * problem->out_channels + first * h->outputs) * h->taps;
    memset(totals, 0, (size_t)vectors * sizeof *totals);
    const char *x_end = p->x + problem->batch * p->x_strides.image * element,
               *dy_end = p->dy + problem->batch * p->y_strides.image * element;
    const strides *out = &p->y_strides;
    ptrdiff_t box = unit0 / problem->batch, pending = 0;
    bench b = prepare(plan, h, box, p->workspace + (size_t)worker * h->worker, &p->x_strides);
    memset(b.sums, 0, (size_t)(h->sums * element));
    for (ptrdiff_t unit = unit0; unit < unit1; unit++) {
        ptrdiff_t n = unit % problem->batch;
        if (unit / problem->batch != box) {
            box = unit / problem->batch;
            b = prepare(plan, h, box, p->workspace + (size_t)worker * h->worker, &p->x_strides);
        }
        const ptrdiff_t *count = b.box.count + 1;
        const ptrdiff_t start =
            b.box.first[1] * out->axis[0] + b.box.first[2] * out->axis[1] + b.box.first[3] * out->axis[2];
        for (ptrdiff_t g = first; g < last; g++) {
            stage_channel(&b, p->x + (n * p->x_strides.image + g * p->x_strides.channel) * element, x_end, b.staged);
            for (ptrdiff_t o = 0; o < h->outputs; o++) {
                ptrdiff_t filter = g * h->outputs + o;
                const char *dy = p->dy + (n * out->image + filter * out->channel + start) * element;
                fc_depthwise job = job_of(&b, b.phases);
                if (h->boxes.total == 1 && count[0] == 1) {
                    bool more = g + 1 < last;
                    const char *x = p->x + (more ? n * p->x_strides.image + (g + 1) * p->x_strides.channel
                                                 : (n + 1) * p->x_strides.image + first * p->x_strides.channel) *
                                               element;
                    if (o == 0)
                        job.ahead[0] = (fc_ahead){x, p->x_strides.channel * element / count[1]};
                    job.ahead[1] = (fc_ahead){dy + out->channel * element, out->channel * element / count[1]};
                }
                job.sums = b.sums + (filter - first * h->outputs) * h->taps * kernels->lanes * element;
                for (ptrdiff_t d = 0; d < count[0]; d++) {
                    const char *rows = dy + d * out->axis[0] * element;
                    job.in = b.staged + d * b.stage.length[1] * b.stage.length[2] * element;
                    job.out = (void *)rows;
                    job.out_pitch = out->axis[1];
                    if (!h->direct ||
                        (dy_end - rows) / element < (count[1] - 1) * out->axis[1] + fc_max(count[2], kernels->lanes)) {
                        fc_patch copy = {.from_pitch = out->axis[1],
                                         .step = out->axis[2],
                                         .to_pitch = h->line,
                                         .rows = count[1],
                                         .columns = count[2]};
                        kernels->place(&copy, rows, dy_end, b.temp);
                        job.out = b.temp;
                        job.out_pitch = h->line;
                    }
                    kernels->depthwise_sum[b.phases->window](&job);
                }
            }
        }
        pending += count[0] * count[1] * fc_ceil_div(count[2], kernels->lanes);
        if (pending >= PATIENCE || unit == unit1 - 1) {
            kernels->fold(b.sums, vectors, totals);
            pending = 0;
        }
    }
}

typedef struct sums {
    const fc_conv_plan *plan;
    double *totals;
    ptrdiff_t splits, taps, each, pitch;
    void *dweight, *dbias;
} sums;

static void add_splits(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const sums *p = context;
    const ptrdiff_t taps = p->taps, filters = p->plan->problem.out_channels, lanes = p->plan->kernels->lanes;
    const ptrdiff_t first = index * ADD_FILTERS, last = fc_min(first + ADD_FILTERS, filters), pitch = p->pitch;
    const ptrdiff_t rows = pitch ? p->each : 1, size = p->each * (pitch ? pitch : filters);
    const ptrdiff_t from = pitch ? first : first * p->each,
                    to = pitch ? fc_min(first + ADD_FILTERS, pitch) : last * p->each;
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t split = 1; split < p->splits; split++) {
            double *total = p->totals + row * pitch;
            const double *part = total + split * size;
            for (ptrdiff_t i = from; i < to; i++)
                total[i] += part[i];
        }
    for (ptrdiff_t k = first; k < last; k++) {
        /* the last vector of channels is that of the last channels */
        ptrdiff_t vector = k / lanes * lanes, lane = vector + lanes <= filters ? k : vector + k - (filters - lanes);
        if (p->dbias)
            fc_bias_put(p->plan, p->totals + (pitch ? taps * pitch + lane : k * p->each + taps), 1, 0, k, 1, p->dbias);
        for (ptrdiff_t t = 0; t < taps; t++) {
            double total = p->totals[pitch ? t * pitch + lane : k * p->each + t];
            if (p->plan->problem.dtype == FC_FLOAT32)
                ((float *)p->dweight)[k * taps + t] = (float)total;
            else
                ((double *)p->dweight)[k * taps + t] = total;
        }
    }
}

void fc_depthwise_add(const fc_conv_plan *plan, double *totals, ptrdiff_t splits, ptrdiff_t each, ptrdiff_t pitch,
                      void *dweight, void *dbias, int threads)
{
    const ptrdiff_t *kernel = plan->problem.kernel;
    sums s = {.plan = plan,
              .totals = totals,
              .splits = splits,
              .taps = kernel[0] * kernel[1] * kernel[2],
              .each = each,
              .pitch = pitch,
              .dweight = dweight,
              .dbias = dbias};
    fc_parallel(threads, fc_ceil_div(plan->problem.out_channels, ADD_FILTERS), add_splits, &s);
}

static void gradient_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    shape h = shape_of(plan);
    gradient p = {.plan = plan, .shape = &h, .x = arrays->x, .dy = arrays->y};
    p.x_strides = strides_of_x(&plan->problem);
    p.y_strides = strides_of_y(plan);
    p.totals = fc_take(&space, (ptrdiff_t)h.shared);
    p.workspace = space;
    fc_parallel(threads, h.blocks * h.splits, run_gradient, &p);
    fc_depthwise_add(plan, p.totals, h.splits, h.taps, 0, arrays->weight, NULL, threads);
}

/* ---- pixels ------------------------------------------------------------------------------------------------------ */

/* A window of a sweep, as the kernels take it. */
typedef struct lines {
    fc_sweep sweep;
    int window;
    ptrdiff_t count, width, step; /* lines, taps of a line, and between the places of a row */
} lines;

typedef struct pixels_shape {
    ptrdiff_t phases, rows;       /* rows of the grid, depth and height together */
    ptrdiff_t taps, table, pitch; /* pitch: channels rounded up to vectors */
    ptrdiff_t splits;
    size_t worker, shared;
} pixels_shape;

typedef struct pixels {
    const fc_conv_plan *plan;
    const pixels_shape *shape;
    const char *x, *bias;
    char *y, *weight, *zeros, *workspace; /* x: what is read along the taps; y: the other */
    double *totals;                       /* [split][tap][pitch] */
    ptrdiff_t in_image, out_image;
    ptrdiff_t blocks; /* of rows */
} pixels;

enum { PIXEL_TABLE = 2 * 6 + 5 }; /* most pixels of a line that one tile reads */

static pixels_shape pixels_shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype);
    pixels_shape h = {.phases = phase_count(plan), .taps = p->kernel[0] * p->kernel[1] * p->kernel[2]};
    fc_sweep s = sweep_of(plan, 0); /* no phase has more rows */
    h.rows = s.axis[0].places * s.axis[1].places;
    h.table = fc_max(p->kernel[0] * p->kernel[1] * PIXEL_TABLE, h.taps * 7);
    h.pitch = fc_round_up(p->groups, plan->kernels->lanes);
    ptrdiff_t zeros = fc_round_up(p->groups * element, FC_ALIGNMENT);
    h.worker = (size_t)fc_round_up((h.table + 7) * (ptrdiff_t)sizeof(void *), FC_ALIGNMENT);
    h.worker += (size_t)fc_round_up(h.phases * (ptrdiff_t)sizeof(lines), FC_ALIGNMENT);
    if (p->pass == FC_BACKWARD_WEIGHT) {
        ptrdiff_t sums = h.taps * h.pitch;
        h.worker += (size_t)fc_round_up(sums * element, FC_ALIGNMENT);
        ptrdiff_t room = fc_max((ptrdiff_t)(plan->limit / 2) / (sums * (ptrdiff_t)sizeof(double)), 1);
        h.splits = fc_min(fc_min(TASKS, fc_ceil_div(h.rows * p->batch * plan->output[2], SPLIT_PIXELS)),
                          fc_min(h.rows * p->batch, room));
        h.shared = (size_t)(zeros + h.splits * sums * (ptrdiff_t)sizeof(double));
    } else {
        h.shared = (size_t)(zeros + fc_round_up(h.taps * p->groups * element, FC_ALIGNMENT));
    }
    return h;
}

static lines lines_of(const fc_conv_plan *plan, ptrdiff_t phase)
{
    lines l = {.sweep = sweep_of(plan, phase), .width = 1, .step = 1};
    const fc_axis *w = &l.sweep.axis[2];
    l.count = fc_sweep_taps(&l.sweep);
    l.window = w->tap_step == 1 ? window_of(w->taps, w->step) : FC_WINDOW_1;
    if (l.window != FC_WINDOW_1) {
        l.width = w->taps;
        l.step = w->step;
        l.count /= l.width;
    }
    return l;
}

/* Fills the table for `count` places of a row, from place w on. */
static void list_pixels(const pixels *p, const lines *l, const char *image, ptrdiff_t d, ptrdiff_t h, ptrdiff_t w,
                        int count, const void **table)
{
    const fc_axis *ax = l->sweep.axis;
    const ptrdiff_t pixel = p->plan->problem.groups * (ptrdiff_t)fc_size_of(p->plan->problem.dtype);
    ptrdiff_t parts = l->width == 1 ? ax[2].taps : 1, pixels = l->step * (count - 1) + l->width;
    ptrdiff_t step = l->width == 1 ? ax[2].step : 1;
    for (ptrdiff_t td = 0; td < ax[0].taps; td++)
        for (ptrdiff_t th = 0; th < ax[1].taps; th++) {
            ptrdiff_t id = ax[0].origin + d * ax[0].step + td * ax[0].tap_step,
                      ih = ax[1].origin + h * ax[1].step + th * ax[1].tap_step;
            bool inside = id >= 0 && id < ax[0].input && ih >= 0 && ih < ax[1].input;
            const char *row = inside ? image + (id * ax[1].input + ih) * ax[2].input * pixel : NULL;
            for (ptrdiff_t t = 0; t < parts; t++) {
                ptrdiff_t iw = ax[2].origin + w * ax[2].step + t * ax[2].tap_step;
                for (ptrdiff_t i = 0; i < pixels; i++, iw += step)
                    *table++ = inside && iw >= 0 && iw < ax[2].input ? row + iw * pixel : p->zeros;
            }
        }
}

static int next_count(ptrdiff_t left) { return left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* The next row is fetched: what it is the first to read, and what it writes. */
static void look_ahead_pixels(const pixels *p, const lines *l, const char *image, ptrdiff_t d, ptrdiff_t h, ptrdiff_t w,
                              const char *row, fc_depthwise_pixels *job)
{
    const fc_axis *ax = l->sweep.axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->plan->problem.dtype), pixel = job->channels * element;
    ptrdiff_t id = ax[0].origin + d * ax[0].step + (ax[0].taps - 1) * ax[0].tap_step;
    ptrdiff_t ih = ax[1].origin + (h + 1) * ax[1].step + (ax[1].taps - 1) * ax[1].tap_step;
    ptrdiff_t iw = fc_max(ax[2].origin, 0) + w * ax[2].step;
    ptrdiff_t vector = p->plan->kernels->lanes * element;
    job->ahead[0] = job->ahead[1] = (fc_ahead){NULL, 0};
    if (id >= 0 && id < ax[0].input && ih >= 0 && ih < ax[1].input)
        job->ahead[0] =
            (fc_ahead){image + ((id * ax[1].input + ih) * ax[2].input + iw) * pixel, job->count * ax[2].step * vector};
    if (ax[2].output_first == 0 && h + 1 < ax[1].places)
        job->ahead[1] = (fc_ahead){row + (ax[1].output_step * ax[2].output + w * ax[2].output_step) * pixel,
                                   job->count * ax[2].output_step * vector};
}

/* One row of the places of a sweep: forward, input gradient, or the weight gradient's sums. */
static void run_row(const pixels *p, const lines *l, ptrdiff_t n, ptrdiff_t d, ptrdiff_t h, fc_depthwise_pixels *job,
                    const void **table)
{
    const fc_conv_problem *problem = &p->plan->problem;
    const fc_axis *ax = l->sweep.axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype), channels = problem->groups;
    const char *image = p->x + n * p->in_image * element;
    char *row = p->y + (n * p->out_image + (((ax[0].output_first + d * ax[0].output_step) * ax[1].output +
                                             ax[1].output_first + h * ax[1].output_step) *
                                                ax[2].output +
                                            ax[2].output_first) *
                                               channels) *
                           element;
    void **out = (void **)(table + p->shape->table);
    job->lines = l->count;
    job->in = table;
    job->out = out;
    for (ptrdiff_t w = 0; w < ax[2].places; w += job->count) {
        job->count = next_count(ax[2].places - w);
        list_pixels(p, l, image, d, h, w, job->count, table);
        for (int q = 0; q < job->count; q++)
            out[q] = row + (w + q) * ax[2].output_step * channels * element;
        look_ahead_pixels(p, l, image, d, h, w, row, job);
        if (problem->pass == FC_BACKWARD_WEIGHT)
            p->plan->kernels->pixels_sum[l->window](job);
        else
            p->plan->kernels->pixels[l->window](job);
    }
}

static void run_pixels(void *context, ptrdiff_t index, int worker)
{
    const pixels *p = context;
    const fc_conv_problem *problem = &p->plan->problem;
    const pixels_shape *h = p->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype);
    ptrdiff_t n = index / p->blocks, block = index % p->blocks;
    ptrdiff_t first = block * h->rows / p->blocks, last = (block + 1) * h->rows / p->blocks;
    char *space = p->workspace + (size_t)worker * h->worker;
    const void **table = fc_take(&space, (h->table + 7) * (ptrdiff_t)sizeof(void *));
    lines *l = fc_take(&space, h->phases * (ptrdiff_t)sizeof(lines));
    for (ptrdiff_t i = 0; i < h->phases; i++)
        l[i] = lines_of(p->plan, i);
    for (ptrdiff_t r = first; r < last; r++) {
        const char *weight = p->weight;
        for (ptrdiff_t i = 0; i < h->phases; i++) {
            const fc_axis *ax = l[i].sweep.axis;
            ptrdiff_t d = r / l->sweep.axis[1].places, y = r % l->sweep.axis[1].places;
            fc_depthwise_pixels job = {
                .channels = problem->groups, .weight = weight, .bias = p->bias, .relu = problem->relu};
            if (d < ax[0].places && y < ax[1].places)
                run_row(p, &l[i], n, d, y, &job, table);
            weight += fc_sweep_taps(&l[i].sweep) * problem->groups * element;
        }
    }
}

static void pixels_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const fc_conv_problem *problem = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype);
    pixels_shape h = pixels_shape_of(plan);
    bool back = problem->pass == FC_BACKWARD_INPUT;
    ptrdiff_t x_image = strides_of_x(problem).image, y_image = strides_of_y(plan).image;
    pixels p = {.plan = plan, .shape = &h, .bias = back ? NULL : arrays->bias};
    p.x = back ? arrays->y : arrays->x;
    p.y = back ? arrays->x : arrays->y;
    p.in_image = back ? y_image : x_image;
    p.out_image = back ? x_image : y_image;
    p.zeros = fc_take(&space, problem->groups * element);
    p.weight = fc_take(&space, h.taps * problem->groups * element);
    p.workspace = space;
    memset(p.zeros, 0, (size_t)(problem->groups * element));
    turned t = {plan, arrays->weight, p.weight, true};
    fc_parallel(threads, h.phases, turn_phase, &t);
    /* blocks of rows read their neighbours' rows again */
    ptrdiff_t row = fc_max(p.out_image / h.rows, 1), rows = fc_max(4 * TASK_ELEMENTS / row, 1);
    if (threads > 1)
        rows = fc_min(rows, fc_max(h.rows * problem->batch / (4 * threads), 1));
    p.blocks = fc_ceil_div(h.rows, rows);
    fc_parallel(threads, problem->batch * p.blocks, run_pixels, &p);
}

/* ---- pixels: weight gradient ------------------------------------------------------------------------------------- */

static void run_pixels_gradient(void *context, ptrdiff_t split, int worker)
{
    const pixels *p = context;
    const fc_conv_problem *problem = &p->plan->problem;
    const pixels_shape *h = p->shape;
    char *space = p->workspace + (size_t)worker * h->worker;
    const ptrdiff_t units = h->rows * problem->batch, size = h->taps * h->pitch;
    ptrdiff_t first = split * units / h->splits, last = (split + 1) * units / h->splits, pending = 0;
    const void **table = fc_take(&space, (h->table + 7) * (ptrdiff_t)sizeof(void *));
    double *totals = p->totals + split * size;
    memset(totals, 0, (size_t)size * sizeof *totals);
    memset(space, 0, (size_t)size * fc_size_of(problem->dtype));
    lines l = lines_of(p->plan, 0);
    fc_depthwise_pixels job = {.channels = problem->groups, .sums = space};
    for (ptrdiff_t unit = first; unit < last; unit++) {
        ptrdiff_t n = unit / h->rows, r = unit % h->rows;
        run_row(p, &l, n, r / l.sweep.axis[1].places, r % l.sweep.axis[1].places, &job, table);
        pending += l.sweep.axis[2].places;
        if (pending >= PATIENCE || unit == last - 1) {
            p->plan->kernels->drain(space, size, totals);
            pending = 0;
        }
    }
}

static void pixels_gradient_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const fc_conv_problem *problem = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype), channels = problem->groups;
    pixels_shape h = pixels_shape_of(plan);
    pixels p = {.plan = plan, .shape = &h, .x = arrays->x, .y = arrays->y};
    p.in_image = strides_of_x(problem).image;
    p.out_image = strides_of_y(plan).image;
    p.zeros = fc_take(&space, channels * element);
    p.totals = fc_take(&space, h.splits * h.taps * h.pitch * (ptrdiff_t)sizeof(double));
    p.workspace = space;
    memset(p.zeros, 0, (size_t)(channels * element));
    fc_parallel(threads, h.splits, run_pixels_gradient, &p);
    fc_depthwise_add(plan, p.totals, h.splits, h.taps, h.pitch, arrays->weight, NULL, threads);
}

/* ---- the algorithm ----------------------------------------------------------------------------------------------- */

static size_t workspace(const fc_conv_plan *plan, int threads);

static const char *decline(const fc_conv_plan *plan)
{
    if (plan->problem.in_channels != plan->problem.groups)
        return "it takes one input channel for each group";
    return workspace(plan, 1) > plan->limit ? "what it stages would not fit into the workspace" : NULL;
}

/* Multiply-adds at two a cycle where taps share what they load, and one where they do not; planes are staged, at two
 * cycles a vector, and where rows do not lie as they are computed, each element is moved by itself. Measured: about twice that. */
static double cost(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const int along = by_pixels(plan) ? 2 : 1;
    const bool back = p->pass == FC_BACKWARD_INPUT,
               shared = window_of(p->kernel[along], back ? 1 : p->stride[along]) != FC_WINDOW_1;
    double lanes = (double)plan->kernels->lanes, taps = (double)(p->kernel[0] * p->kernel[1] * p->kernel[2]);
    double rows = (double)(plan->output[0] * plan->output[1]), vectors = (double)plan->output[2] / lanes, moved = 0;
    if (!by_pixels(plan)) {
        shape h = shape_of(plan);
        vectors = (double)fc_ceil_div(plan->output[2], plan->kernels->lanes);
        moved = fc_depthwise_planes_fit(plan) || fc_depthwise_lines_fit(plan) || fc_depthwise_spread_fit(plan) ||
                        fc_depthwise_turned_fit(plan)
                    ? 0
                    : (double)h.staged / lanes * 2;
        if (p->layout == FC_CHANNELS_LAST)
            moved += (double)(back ? p->input[0] * p->input[1] * p->input[2] : 0) +
                     rows * (double)(plan->output[2] * h.inputs * h.outputs) * 4;
    }
    double computed = (double)(p->out_channels / p->groups) * rows * vectors * taps * (shared ? 0.5 : 1);
    const double measured = (p->pass == FC_FORWARD         ? 1.9
                             : !back                       ? 1.7
                             : p->out_channels > p->groups ? 2.1
                                                           : 1.5) *
                            (p->stride[along] > 1 && !back ? 2 : 1);
    return measured * (computed + moved) * (double)(p->groups * p->batch) / FC_NOMINAL_HERTZ;
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    if (fc_depthwise_turned_fit(plan))
        return fc_depthwise_turned_workspace(plan, threads);
    if (fc_depthwise_planes_fit(plan))
        return fc_depthwise_planes_workspace(plan, threads);
    if (fc_depthwise_lines_fit(plan))
        return fc_depthwise_lines_workspace(plan, threads);
    if (fc_depthwise_spread_fit(plan))
        return fc_depthwise_spread_workspace(plan, threads);
    if (by_pixels(plan)) {
        pixels_shape h = pixels_shape_of(plan);
        return h.worker * (size_t)threads + h.shared + 2 * FC_ALIGNMENT;
    }
    shape h = shape_of(plan);
    return h.worker * (size_t)threads + h.shared + FC_ALIGNMENT;
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    bool gradient = plan->problem.pass == FC_BACKWARD_WEIGHT;
    if (fc_depthwise_turned_fit(plan))
        fc_depthwise_turned_run(plan, arrays, space, threads);
    else if (fc_depthwise_planes_fit(plan))
        fc_depthwise_planes_run(plan, arrays, space, threads);
    else if (fc_depthwise_lines_fit(plan))
        fc_depthwise_lines_run(plan, arrays, space, threads);
    else if (fc_depthwise_spread_fit(plan))
        fc_depthwise_spread_run(plan, arrays, space, threads);
    else if (by_pixels(plan))
        (gradient ? pixels_gradient_run : pixels_run)(plan, arrays, space, threads);
    else
        (gradient ? gradient_run : planes_run)(plan, arrays, space, threads);
}

static bool sums_bias(const fc_conv_plan *plan)
{
    return fc_depthwise_turned_fit(plan) || fc_depthwise_planes_fit(plan) || fc_depthwise_lines_fit(plan);
}

const fc_conv_algorithm fc_algorithm_depthwise = {"depthwise", decline, cost, workspace, run, sums_bias, NULL};

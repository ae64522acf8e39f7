/* stage.c -- copies the part of a channels-first image that a box of output places needs, padding and strides resolved. */
#include "conv.h"

static ptrdiff_t grid(const fc_sweep *sweep, int axis)
{
    return axis == 0 ? sweep->batch : sweep->axis[axis - 1].places;
}

fc_boxes fc_boxes_of(const fc_sweep *sweep, ptrdiff_t places, ptrdiff_t unit)
{
    fc_boxes b = {{1, 1, 1, 1}, {1, 1, 1, 1}, 1};
    ptrdiff_t room = fc_max(places, 1);
    bool whole = true; /* all axes inside are whole */
    for (int a = 3; a >= 0; a--) {
        ptrdiff_t n = grid(sweep, a);
        if (whole) {
            ptrdiff_t most = fc_max(fc_min(room, n), 1);
            b.count[a] = fc_ceil_div(n, fc_ceil_div(n, most));
            if (a == 3 && most >= unit)
                b.count[a] = fc_min(fc_round_up(b.count[a], unit), n);
        }
        whole = whole && b.count[a] == n;
        room /= b.count[a];
        b.boxes[a] = fc_ceil_div(n, b.count[a]);
        b.total *= b.boxes[a];
    }
    return b;
}

fc_box fc_box_at(const fc_sweep *sweep, const fc_boxes *boxes, ptrdiff_t index)
{
    fc_box b;
    for (int a = 3; a >= 0; a--) {
        b.first[a] = index % boxes->boxes[a] * boxes->count[a];
        b.count[a] = fc_min(boxes->count[a], grid(sweep, a) - b.first[a]);
        index /= boxes->boxes[a];
    }
    return b;
}

fc_stage fc_stage_of(const fc_sweep *sweep, const fc_box *box) { return fc_stage_of_rows(sweep, box, 1); }

fc_stage fc_stage_of_rows(const fc_sweep *sweep, const fc_box *box, ptrdiff_t unit)
{
    fc_stage s = {.box = *box, .plane = box->count[0]};
    ptrdiff_t subs = 1;
    for (int a = 0; a < 3; a++) {
        const fc_axis *axis = &sweep->axis[a];
        ptrdiff_t n = box->count[a + 1], taps = fc_max(axis->taps, 1);
        ptrdiff_t period = axis->step / fc_gcd(axis->step, axis->tap_step);
        ptrdiff_t length = n + (taps - 1) * axis->tap_step / axis->step;
        s.phased[a] = fc_min(taps, period) * length <= taps * n;
        s.period[a] = s.phased[a] ? period : taps;
        s.subs[a] = fc_min(taps, s.period[a]);
        s.length[a] = fc_round_up(s.phased[a] ? length : n, a == 2 ? unit : 1);
        s.plane *= s.length[a];
        subs *= s.subs[a];
    }
    /* an odd number of cache lines: channels a power of two apart would share cache sets */
    s.plane = fc_round_up(s.plane, 16) | 16;
    s.pitch = subs * s.plane;
    return s;
}

/* Input coordinate, relative to the first place's tap 0, where a sub begins. */
static ptrdiff_t sub_base(const fc_axis *axis, bool phased, ptrdiff_t sub)
{
    ptrdiff_t base = sub * axis->tap_step;
    return phased ? base % axis->step : base;
}

ptrdiff_t fc_stage_start(const fc_axis axis[3], const fc_stage *s, int a, ptrdiff_t sub)
{
    return axis[a].origin + s->box.first[a + 1] * axis[a].step + sub_base(&axis[a], s->phased[a], sub);
}

void fc_stage_offsets(const fc_sweep *sweep, const fc_stage *s, ptrdiff_t k, ptrdiff_t count, ptrdiff_t channel,
                      ptrdiff_t *offsets)
{
    const fc_axis *ax = sweep->axis;
    const ptrdiff_t step[3] = {s->length[1] * s->length[2], s->length[2], 1}; /* of a shift */
    const ptrdiff_t sub_step[3] = {s->subs[1] * s->subs[2] * s->plane, s->subs[2] * s->plane, s->plane};
    ptrdiff_t tap[3], part[3];
    for (int a = 2; a >= 0; a--) {
        tap[a] = k % ax[a].taps;
        k /= ax[a].taps;
    }
    int from = 0; /* the outermost axis whose tap has changed */
    for (ptrdiff_t i = 0; i < count; i++) {
        for (int a = from; a < 3; a++) {
            ptrdiff_t sub = tap[a] % s->period[a];
            part[a] = sub * sub_step[a] +
                      (tap[a] * ax[a].tap_step - sub_base(&ax[a], s->phased[a], sub)) / ax[a].step * step[a];
        }
        offsets[i] = (k - channel) * s->pitch + part[0] + part[1] + part[2];
        from = 2;
        while (from >= 0 && ++tap[from] == ax[from].taps)
            tap[from--] = 0;
        if (from < 0) {
            from = 0;
            k++;
        }
    }
}

bool fc_stage_has_all_phases(const fc_sweep *sweep, const fc_stage *s)
{
    const fc_axis *last = &sweep->axis[2];
    return s->phased[2] && last->tap_step == 1 && s->subs[2] == last->step;
}

ptrdiff_t fc_stage_positions(const fc_stage *s)
{
    const ptrdiff_t *n = s->box.count, *length = s->length;
    return (((n[0] - 1) * length[0] + n[1] - 1) * length[1] + n[2] - 1) * length[2] + n[3];
}

/* Rows are often too short for calls of memset and memcpy. */
void fc_stage_row(const fc_kernels *kernels, ptrdiff_t element, const char *row, ptrdiff_t first, ptrdiff_t step,
                  ptrdiff_t size, char *to, ptrdiff_t length)
{
    ptrdiff_t left = first >= 0 ? 0 : fc_min(step == 1 ? -first : fc_ceil_div(-first, step), length);
    ptrdiff_t right =
        first >= size ? left : fc_max(left, fc_min(length, step == 1 ? size - first : fc_ceil_div(size - first, step)));
    if (left)
        kernels->zero(to, left);
    if (right > left) {
        const char *from = row + (first + left * step) * element;
        if (step == 1)
            kernels->copy(from, to + left * element, right - left);
        else
            kernels->gather(from, step, to + left * element, right - left);
    }
    if (length > right)
        kernels->zero(to + right * element, length - right);
}

/* What fc_stage_fill copies. */
typedef struct filling {
    const fc_kernels *kernels;
    const fc_sweep *sweep;
    const fc_stage *stage;
    ptrdiff_t element;
    ptrdiff_t columns;      /* subs of the last axis that are filled at once: */
    ptrdiff_t start[3];     /* input coordinates of the first element of the first of them; */
    ptrdiff_t sub, sub_row; /* elements from one to the next, and from a sub of the second axis to the next */
    /* elements of a row of each of several: before the first that all have in the input, and those that all have there */
    ptrdiff_t head, inside;
} filling;

/* The few elements at an end of a phase's row, from this column on: what is outside of the input is zero. */
static void fill_end(const filling *f, const char *row, ptrdiff_t column, char *to, ptrdiff_t count)
{
    const ptrdiff_t step = f->sweep->axis[2].step, size = f->sweep->axis[2].input, element = f->element;
    for (; count > 0 && column < size; count--, column += step, to += element) {
        const bool inside = column >= 0;
        if (element == 4)
            *(float *)to = inside ? ((const float *)row)[column] : 0;
        else
            *(double *)to = inside ? ((const double *)row)[column] : 0;
    }
    if (count > 0)
        f->kernels->zero(to, count);
}

/* A row of every phase. */
static void fill_phases(const filling *f, const char *row, char *to)
{
    const ptrdiff_t step = f->sweep->axis[2].step, element = f->element, tail = f->head + f->inside;
    if (f->inside)
        f->kernels->split(row + (f->start[2] + f->head * step) * element, step, to + f->head * element, f->sub,
                          f->inside);
    for (ptrdiff_t t = 0; t < step; t++, to += f->sub * element) {
        fill_end(f, row, f->start[2] + t, to, f->head);
        fill_end(f, row, f->start[2] + t + tail * step, to + tail * element, f->stage->length[2] - tail);
    }
}

/* A plane of an image: of all subs of the second axis, so that rows are read in the order in which they lie. */
static void fill_plane(const filling *f, const char *plane, char *to)
{
    const fc_axis *ax = f->sweep->axis;
    const fc_stage *s = f->stage;
    const ptrdiff_t row = s->length[2] * f->element;
    for (ptrdiff_t h = 0; h < s->length[1]; h++)
        for (ptrdiff_t sub = 0; sub < s->subs[1]; sub++) {
            const ptrdiff_t high = fc_stage_start(ax, s, 1, sub) + h * ax[1].step;
            char *at = to + sub * f->sub_row * f->element + h * row;
            if (high < 0 || high >= ax[1].input) {
                for (ptrdiff_t i = 0; i < f->columns; i++)
                    memset(at + i * f->sub * f->element, 0, (size_t)row);
                continue;
            }
            const char *from = plane + high * ax[2].input * f->element;
            if (f->columns > 1)
                fill_phases(f, from, at);
            else
                fc_stage_row(f->kernels, f->element, from, f->start[2], ax[2].step, ax[2].input, at, s->length[2]);
        }
}

/* An image of one channel. */
static void fill_image(const filling *f, const char *image, char *to)
{
    const fc_axis *ax = f->sweep->axis;
    const fc_stage *s = f->stage;
    const ptrdiff_t plane = s->length[1] * s->length[2] * f->element;
    /* rows that lie in the input as they lie here are copied in one go */
    const bool whole = f->start[2] == 0 && ax[2].step == 1 && s->length[2] == ax[2].input && s->subs[1] == 1 &&
                       ax[1].step == 1 && f->start[1] >= 0 && f->start[1] + s->length[1] <= ax[1].input;
    for (ptrdiff_t d = 0; d < s->length[0]; d++, to += plane) {
        const ptrdiff_t deep = f->start[0] + d * ax[0].step;
        if (deep < 0 || deep >= ax[0].input) {
            for (ptrdiff_t i = 0; i < f->columns * s->subs[1]; i++)
                memset(to + (i / f->columns * f->sub_row + i % f->columns * f->sub) * f->element, 0, (size_t)plane);
            continue;
        }
        const char *from = image + deep * ax[1].input * ax[2].input * f->element;
        if (whole)
            memcpy(to, from + f->start[1] * ax[2].input * f->element, (size_t)plane);
        else
            fill_plane(f, from, to);
    }
}

void fc_stage_fill(const fc_conv_plan *plan, const fc_sweep *sweep, const fc_stage *s, ptrdiff_t group,
                   ptrdiff_t first_channel, ptrdiff_t last_channel, const void *in, void *to_)
{
    const fc_axis *ax = sweep->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), size = fc_sweep_input(sweep),
                    image = s->length[0] * s->length[1] * s->length[2], subs = s->subs[0] * s->subs[1] * s->subs[2];
    const bool all_phases = fc_stage_has_all_phases(sweep, s);
    filling f = {.kernels = plan->kernels,
                 .sweep = sweep,
                 .stage = s,
                 .element = element,
                 .columns = all_phases ? ax[2].step : 1,
                 .sub = s->plane,
                 .sub_row = s->subs[2] * s->plane};
    if (all_phases) {
        const ptrdiff_t first = fc_stage_start(ax, s, 2, 0), step = ax[2].step;
        f.head = fc_min(first < 0 ? fc_ceil_div(-first, step) : 0, s->length[2]);
        f.inside = fc_max(fc_min((ax[2].input - first) / step, s->length[2]) - f.head, 0);
    }
    char *to = to_;
    for (ptrdiff_t c = first_channel; c < last_channel; c++, to += s->pitch * element) {
        for (ptrdiff_t sub = 0; sub < s->subs[0]; sub++)
            for (ptrdiff_t column = 0; column < s->subs[2]; column += f.columns) {
                f.start[0] = fc_stage_start(ax, s, 0, sub);
                f.start[1] = fc_stage_start(ax, s, 1, 0);
                f.start[2] = fc_stage_start(ax, s, 2, column);
                for (ptrdiff_t n = 0; n < s->box.count[0]; n++)
                    fill_image(&f,
                               (const char *)in + ((s->box.first[0] + n) * sweep->groups * sweep->channels +
                                                   group * sweep->channels + c) *
                                                      size * element,
                               to + (sub * s->subs[1] * f.sub_row + column * s->plane + n * image) * element);
            }
        for (ptrdiff_t i = 0; i < subs; i++)
            memset(to + (i * s->plane + s->box.count[0] * image) * element, 0,
                   (size_t)(s->plane - s->box.count[0] * image) * (size_t)element);
    }
    memset(to, 0, FC_SLACK * (size_t)element);
}

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

fc_stage fc_stage_of(const fc_sweep *sweep, const fc_box *box)
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
        s.length[a] = s.phased[a] ? length : n;
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

void fc_stage_fill(const fc_conv_plan *plan, const fc_sweep *sweep, const fc_stage *s, ptrdiff_t group,
                   ptrdiff_t first_channel, ptrdiff_t last_channel, const void *in, void *to_)
{
    const fc_axis *ax = sweep->axis;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype), size = fc_sweep_input(sweep);
    const ptrdiff_t *length = s->length;
    ptrdiff_t sub[3];
    char *to_channel = to_;
    for (ptrdiff_t c = first_channel; c < last_channel; c++) {
        char *to_sub = to_channel;
        for (sub[0] = 0; sub[0] < s->subs[0]; sub[0]++)
            for (sub[1] = 0; sub[1] < s->subs[1]; sub[1]++)
                for (sub[2] = 0; sub[2] < s->subs[2]; sub[2]++) {
                    ptrdiff_t start[3]; /* input coordinate of the sub's first element */
                    for (int a = 0; a < 3; a++)
                        start[a] = fc_stage_start(ax, s, a, sub[a]);
                    /* rows that lie in the input as they lie here are copied in one go */
                    bool whole = start[2] == 0 && ax[2].step == 1 && length[2] == ax[2].input && ax[1].step == 1 &&
                                 start[1] >= 0 && start[1] + length[1] <= ax[1].input;
                    char *to = to_sub;
                    for (ptrdiff_t n = 0; n < s->box.count[0]; n++) {
                        const char *image =
                            (const char *)in +
                            ((s->box.first[0] + n) * sweep->groups * sweep->channels + group * sweep->channels + c) *
                                size * element;
                        for (ptrdiff_t d = 0; d < length[0]; d++) {
                            ptrdiff_t id = start[0] + d * ax[0].step;
                            bool inside = id >= 0 && id < ax[0].input;
                            if (!inside || whole) {
                                size_t bytes = (size_t)(length[1] * length[2] * element);
                                if (inside)
                                    memcpy(to, image + (id * ax[1].input + start[1]) * ax[2].input * element, bytes);
                                else
                                    memset(to, 0, bytes);
                                to += bytes;
                                continue;
                            }
                            for (ptrdiff_t h = 0; h < length[1]; h++, to += length[2] * element) {
                                ptrdiff_t ih = start[1] + h * ax[1].step;
                                if (ih < 0 || ih >= ax[1].input)
                                    memset(to, 0, (size_t)(length[2] * element));
                                else
                                    fc_stage_row(plan->kernels, element,
                                                 image + (id * ax[1].input + ih) * ax[2].input * element, start[2],
                                                 ax[2].step, ax[2].input, to, length[2]);
                            }
                        }
                    }
                    memset(to, 0, (size_t)(to_sub + s->plane * element - to));
                    to_sub += s->plane * element;
                }
        to_channel += s->pitch * element;
    }
    memset(to_channel, 0, FC_SLACK * (size_t)element);
}

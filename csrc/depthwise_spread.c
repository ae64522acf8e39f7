/* depthwise_spread.c -- the input gradient of depthwise windows of 3x3 and 5x5 at stride 2, channels first: each row of dy is spread over the
 * rows of dx that it reaches, both phases of a row side by side, so that dx is written once and in order. */
#include "conv.h"

enum { TASK_ELEMENTS = 32 << 10 }; /* of dx, about: makes up for a task's setup */

typedef struct job {
    const fc_conv_plan *plan;
    const char *dy, *weight;
    char *dx, *workspace;
    size_t worker;
    ptrdiff_t planes, task_planes;
    bool streamed;
} job;

bool fc_depthwise_spread_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    bool fits = p->layout == FC_CHANNELS_FIRST && p->pass == FC_BACKWARD_INPUT && p->in_channels == p->groups &&
                p->out_channels == p->groups && p->input[0] == 1 && p->kernel[0] == 1 && plan->output[0] == 1 &&
                p->pad_before[0] == 0 && (p->kernel[2] == 3 || p->kernel[2] == 5);
    for (int a = 1; a < 3; a++)
        fits = fits && p->kernel[a] == p->kernel[2] && p->stride[a] == 2 && p->dilation[a] == 1 &&
               p->pad_before[a] < p->kernel[a] && p->input[a] < INT32_MAX / 4;
    return fits && fc_depthwise_spread_workspace(plan, 1) <= plan->limit / 2;
}

static void run_planes(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const fc_conv_problem *p = &j->plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), *out = j->plan->output,
                    taps = p->kernel[1] * p->kernel[2];
    const ptrdiff_t first = index * j->task_planes, last = fc_min(first + j->task_planes, j->planes);
    fc_depthwise_spread s = {.rows = {out[1], p->input[1]},
                             .columns = {out[2], p->input[2]},
                             .pad = {p->pad_before[1], p->pad_before[2]},
                             .dy_end = j->dy + j->planes * out[1] * out[2] * element,
                             .dx_end = j->dx + last * p->input[1] * p->input[2] * element,
                             .room = j->workspace + (size_t)worker * j->worker,
                             .streamed = j->streamed};
    memset(s.room, 0, j->worker);
    for (ptrdiff_t plane = first; plane < last; plane++) {
        s.dy = j->dy + plane * out[1] * out[2] * element;
        s.dx = j->dx + plane * p->input[1] * p->input[2] * element;
        s.weight = j->weight + plane % p->groups * taps * element;
        j->plan->kernels->depthwise_spread[p->kernel[2] == 5](&s);
    }
}

static size_t worker_bytes(const fc_conv_plan *plan)
{
    const ptrdiff_t room = FC_SPREAD_ROOM(plan->output[2], plan->problem.input[2], plan->kernels->lanes);
    return (size_t)fc_round_up(room * (ptrdiff_t)fc_size_of(plan->problem.dtype), FC_ALIGNMENT);
}

size_t fc_depthwise_spread_workspace(const fc_conv_plan *plan, int threads)
{
    return worker_bytes(plan) * (size_t)threads;
}

void fc_depthwise_spread_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    job j = {.plan = plan,
             .dy = arrays->y,
             .weight = arrays->weight,
             .dx = arrays->x,
             .workspace = workspace,
             .worker = worker_bytes(plan),
             .planes = p->batch * p->groups};
    /* Far more is written than read, and memory holds up several threads. Measured: where vectors are whole lines (Zen 5), the caches had
     * better take some of up to twice as much; where they are halves (Zen 3), two threads were slower than one that way. */
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), bytes = j.planes * p->input[1] * p->input[2] * element;
    const bool whole_lines = plan->kernels->lanes * element == FC_ALIGNMENT;
    j.streamed = bytes >= (threads > 1 && whole_lines ? 2 : 1) * FC_STREAMED;
    /* how many planes a task has does not change a bit of the result */
    j.task_planes = fc_max(TASK_ELEMENTS / (p->input[1] * p->input[2]), 1);
    if (threads > 1)
        j.task_planes = fc_min(j.task_planes, fc_max(j.planes / (4 * threads), 1));
    fc_parallel(threads, fc_ceil_div(j.planes, j.task_planes), run_planes, &j);
}

/* test_windows.c -- locally connected layers and the image matrix over random problems, against loops as the textbook has
 * them, on every instruction set.
 *
 * Usage: test_windows [problems [seed]] */
#include "arrays.h"

enum { LARGEST_WORK = 60000 };

static fc_conv_problem random_problem(void)
{
    for (;;) {
        fc_conv_problem p = {.pass = (fc_pass)below(3),
                             .dtype = (fc_dtype)below(2),
                             .layout = (fc_layout)below(2),
                             .batch = PICK(0, 1, 1, 2, 3, 5, 9, 17),
                             .groups = 1,
                             .in_channels = PICK(1, 2, 3, 5, 17, 40),
                             .out_channels = PICK(1, 2, 3, 8)};
        int rank = (int)PICK(1, 2, 2, 2, 3);
        double work = (double)p.batch * (double)p.in_channels * (double)p.out_channels;
        bool fits = true;
        for (int a = 0; a < 3; a++) {
            bool used = a >= 3 - rank;
            p.input[a] = used ? 1 + below(below(4) ? 8 : 40) : 1;
            p.kernel[a] = used ? PICK(1, 1, 2, 3, 3, 4, 5) : 1;
            p.stride[a] = used ? PICK(1, 1, 1, 2, 3) : 1;
            p.dilation[a] = used ? PICK(1, 1, 2, 3) : 1;
            p.pad_before[a] = used ? PICK(0, 0, 1, 2, 6) : 0;
            p.pad_after[a] = used ? PICK(0, 0, 1, 2, 6) : 0;
            ptrdiff_t output = fc_conv_output_length(p.input[a], p.kernel[a], p.stride[a], p.dilation[a],
                                                     p.pad_before[a], p.pad_after[a]);
            fits = fits && output > 0;
            work *= (double)output * (double)p.kernel[a];
        }
        if (fits && work <= LARGEST_WORK)
            return p;
    }
}

static void print_problem(const fc_conv_problem *p)
{
    printf("pass %d, dtype %d, layout %d, batch %td, channels %td -> %td", p->pass, p->dtype, p->layout, p->batch,
           p->in_channels, p->out_channels);
    for (int a = 0; a < 3; a++)
        printf("; input %td+%td+%td, kernel %td, stride %td, dilation %td", p->pad_before[a], p->input[a],
               p->pad_after[a], p->kernel[a], p->stride[a], p->dilation[a]);
    printf(" on %s\n", fc_isa());
}

/* whole numbers: exact in either type */
static void add(array a, fc_dtype dtype, ptrdiff_t i, double value)
{
    if (dtype == FC_FLOAT32)
        ((float *)a.data)[i] += (float)value;
    else
        ((double *)a.data)[i] += value;
}

/* Calls visit for every (image, channel, place, tap), with where it lies in x, or -1 for padding. */
typedef void visitor(void *context, ptrdiff_t n, ptrdiff_t c, ptrdiff_t place, ptrdiff_t tap, ptrdiff_t x);

static ptrdiff_t walk(const fc_conv_problem *p, visitor *visit, void *context)
{
    ptrdiff_t output[3], places = 1, taps = 1, pixels = 1;
    for (int a = 0; a < 3; a++) {
        output[a] = fc_conv_output_length(p->input[a], p->kernel[a], p->stride[a], p->dilation[a], p->pad_before[a],
                                          p->pad_after[a]);
        places *= output[a];
        taps *= p->kernel[a];
        pixels *= p->input[a];
    }
    for (ptrdiff_t n = 0; visit && n < p->batch; n++)
        for (ptrdiff_t c = 0; c < p->in_channels; c++)
            for (ptrdiff_t place = 0; place < places; place++)
                for (ptrdiff_t tap = 0; tap < taps; tap++) {
                    ptrdiff_t o = place, t = tap, at = 0, step = 1;
                    for (int a = 2; a >= 0; a--) {
                        ptrdiff_t i =
                            o % output[a] * p->stride[a] + t % p->kernel[a] * p->dilation[a] - p->pad_before[a];
                        at = at < 0 || i < 0 || i >= p->input[a] ? -1 : at + i * step;
                        step *= p->input[a];
                        o /= output[a];
                        t /= p->kernel[a];
                    }
                    if (at >= 0)
                        at = p->layout == FC_CHANNELS_FIRST ? (n * p->in_channels + c) * pixels + at
                                                            : (n * pixels + at) * p->in_channels + c;
                    visit(context, n, c, place, tap, at);
                }
    return places;
}

/* ---- locally connected ------------------------------------------------------------------------------------------ */

typedef struct local {
    const fc_conv_problem *p;
    array of[4]; /* x, weight, bias, y */
    ptrdiff_t places, taps;
    bool weight, bias;
} local;

static ptrdiff_t y_at(const local *l, ptrdiff_t n, ptrdiff_t k, ptrdiff_t place)
{
    return l->p->layout == FC_CHANNELS_FIRST ? (n * l->p->out_channels + k) * l->places + place
                                             : (n * l->places + place) * l->p->out_channels + k;
}

static void local_visit(void *context, ptrdiff_t n, ptrdiff_t c, ptrdiff_t place, ptrdiff_t tap, ptrdiff_t x)
{
    const local *l = context;
    const fc_conv_problem *p = l->p;
    for (ptrdiff_t k = 0; k < p->out_channels && x >= 0; k++) {
        const ptrdiff_t w = ((place * p->out_channels + k) * p->in_channels + c) * l->taps + tap,
                        y = y_at(l, n, k, place);
        if (p->pass == FC_FORWARD)
            add(l->of[3], p->dtype, y, element(l->of[0], p->dtype, x) * element(l->of[1], p->dtype, w));
        else if (p->pass == FC_BACKWARD_INPUT)
            add(l->of[0], p->dtype, x, element(l->of[3], p->dtype, y) * element(l->of[1], p->dtype, w));
        else
            add(l->of[1], p->dtype, w, element(l->of[0], p->dtype, x) * element(l->of[3], p->dtype, y));
    }
}

static void check_local(const fc_conv_problem *p)
{
    static const bool written[3][4] = {{0, 0, 0, 1}, {1, 0, 0, 0}, {0, 1, 1, 0}};
    local l = {.p = p, .places = walk(p, NULL, NULL), .taps = p->kernel[0] * p->kernel[1] * p->kernel[2]};
    l.weight = p->pass != FC_BACKWARD_WEIGHT || below(4) > 0;
    l.bias = p->pass != FC_BACKWARD_INPUT && below(2);
    for (int i = 0; i < 4; i++) {
        l.of[i] = new_array(fc_local_elements(p, i), p->dtype, i % 2);
        fill(l.of[i], p->dtype);
        if (written[p->pass][i])
            memset(l.of[i].data, 0, l.of[i].bytes);
    }
    walk(p, local_visit, &l);
    for (ptrdiff_t n = 0; n < p->batch && l.bias; n++)
        for (ptrdiff_t k = 0; k < p->out_channels; k++)
            for (ptrdiff_t place = 0; place < l.places; place++) {
                const ptrdiff_t y = y_at(&l, n, k, place), b = place * p->out_channels + k;
                if (p->pass == FC_FORWARD)
                    add(l.of[3], p->dtype, y, element(l.of[2], p->dtype, b));
                else
                    add(l.of[2], p->dtype, b, element(l.of[3], p->dtype, y));
            }
    const char *isa;
    for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            CHECK(fc_isa_select(isa) == FC_OK);
            array got[4];
            for (int j = 0; j < 4; j++)
                got[j] = written[p->pass][j] ? new_array(fc_local_elements(p, j), p->dtype, (i + j) % 2) : l.of[j];
            const fc_conv_arrays arrays = {got[0].data, l.weight ? got[1].data : NULL, l.bias ? got[2].data : NULL,
                                           got[3].data};
            CHECK(fc_local(p, &arrays, threads) == FC_OK);
            for (int j = 0; j < 4; j++) {
                if (!written[p->pass][j])
                    continue;
                if ((j != 1 || l.weight) && (j != 2 || l.bias) && !same(got[j], l.of[j], p->dtype, 0)) {
                    printf("array %d, %d threads\n", j, threads);
                    print_problem(p);
                    exit(1);
                }
                free(got[j].memory);
            }
        }
    for (int i = 0; i < 4; i++)
        free(l.of[i].memory);
}

/* ---- the image matrix ------------------------------------------------------------------------------------------- */

typedef struct columns {
    const fc_conv_problem *p;
    array from, to;
    ptrdiff_t places, taps;
    bool back;
} columns;

static void columns_visit(void *context, ptrdiff_t n, ptrdiff_t c, ptrdiff_t place, ptrdiff_t tap, ptrdiff_t x)
{
    const columns *m = context;
    const fc_conv_problem *p = m->p;
    const ptrdiff_t at = p->layout == FC_CHANNELS_FIRST
                             ? ((n * p->in_channels + c) * m->taps + tap) * m->places + place
                             : ((n * m->places + place) * m->taps + tap) * p->in_channels + c;
    if (x >= 0)
        add(m->to, p->dtype, m->back ? x : at, element(m->from, p->dtype, m->back ? at : x));
}

static void check_columns(const fc_conv_problem *p)
{
    fc_pool_problem q = {
        .dtype = p->dtype, .layout = p->layout, .batch = p->batch, .channels = p->in_channels, .wide = 1};
    for (int a = 0; a < 3; a++) {
        q.input[a] = p->input[a];
        q.kernel[a] = p->kernel[a];
        q.stride[a] = p->stride[a];
        q.dilation[a] = p->dilation[a];
        q.pad_before[a] = p->pad_before[a];
        q.pad_after[a] = p->pad_after[a];
        q.output[a] = fc_conv_output_length(p->input[a], p->kernel[a], p->stride[a], p->dilation[a], p->pad_before[a],
                                            p->pad_after[a]);
    }
    for (int back = 0; back < 2; back++) {
        const ptrdiff_t x = fc_pool_elements(&q, 0), matrix = fc_columns_elements(&q);
        columns m = {p,
                     new_array(back ? matrix : x, p->dtype, true),
                     new_array(back ? x : matrix, p->dtype, false),
                     walk(p, NULL, NULL),
                     p->kernel[0] * p->kernel[1] * p->kernel[2],
                     back};
        fill(m.from, p->dtype);
        memset(m.to.data, 0, m.to.bytes);
        walk(p, columns_visit, &m);
        const char *isa;
        for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++)
            for (int threads = 1; threads <= 3; threads += 2) {
                CHECK(fc_isa_select(isa) == FC_OK);
                array got = new_array(back ? x : matrix, p->dtype, i % 2);
                CHECK((back ? fc_col2im(&q, m.from.data, got.data, threads)
                            : fc_im2col(&q, m.from.data, got.data, threads)) == FC_OK);
                if (!same(got, m.to, p->dtype, 0)) {
                    printf("%s, %d threads\n", back ? "col2im" : "im2col", threads);
                    print_problem(p);
                    exit(1);
                }
                free(got.memory);
            }
        free(m.from.memory);
        free(m.to.memory);
    }
    q.output[2] = PTRDIFF_MAX / 2;
    CHECK(fc_columns_elements(&q) == -1 && fc_im2col(&q, NULL, NULL, 1) == FC_INVALID);
}

static void check_refused(void)
{
    const fc_conv_problem good = {.batch = 2,
                                  .in_channels = 4,
                                  .out_channels = 6,
                                  .groups = 1,
                                  .input = {1, 5, 5},
                                  .kernel = {1, 3, 3},
                                  .stride = {1, 1, 1},
                                  .dilation = {1, 1, 1}};
    CHECK(fc_local_elements(&good, 1) == 9 * 6 * 4 * 9);
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        fc_conv_problem bad = good;                                                                                    \
        bad.field = value;                                                                                             \
        CHECK(fc_local_elements(&bad, 0) == -1 && fc_local(&bad, &(fc_conv_arrays){0}, 1) == FC_INVALID);              \
    } while (0)
    REFUSED(batch, -1);
    REFUSED(in_channels, 0);
    REFUSED(out_channels, 0);
    REFUSED(groups, 2);
    REFUSED(kernel[2], 6);
    REFUSED(stride[1], 0);
    REFUSED(pad_before[0], PTRDIFF_MAX);
    REFUSED(in_channels, PTRDIFF_MAX / 8);
    REFUSED(batch, PTRDIFF_MAX / 100);
}

int main(int argc, char **argv)
{
    long problems = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    check_refused();
    for (long i = 0; i < problems; i++) {
        const fc_conv_problem p = random_problem();
        check_local(&p);
        check_columns(&p);
    }
    printf("ok, %ld problems\n", problems);
    return 0;
}

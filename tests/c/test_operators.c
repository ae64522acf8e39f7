/* test_operators.c -- pooling, normalization, softmax and rows over random problems, in arrays of their own size, against
 * loops as the textbook has them or against themselves, on every instruction set.
 *
 * Usage: test_operators [problems [seed]] */
#include "arrays.h"

static bool is_equal(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static void check_equal(array got, array expected, fc_dtype dtype, const char *what)
{
    const size_t size = dtype == FC_FLOAT32 ? sizeof(float) : sizeof(double);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)(expected.bytes / size); i++)
        if (!is_equal(element(got, dtype, i), element(expected, dtype, i))) {
            printf("%s on %s: element %td is %g, expected %g\n", what, fc_isa(), i, element(got, dtype, i),
                   element(expected, dtype, i));
            exit(1);
        }
}

static void put(array a, fc_dtype dtype, ptrdiff_t i, double value)
{
    if (dtype == FC_FLOAT32)
        ((float *)a.data)[i] = (float)value;
    else
        ((double *)a.data)[i] = value;
}

/* ---- pooling ---------------------------------------------------------------------------------------------------- */

static fc_pool_problem random_pool(void)
{
    fc_pool_problem p = {.dtype = (fc_dtype)below(2),
                         .layout = (fc_layout)below(2),
                         .batch = PICK(0, 1, 1, 2),
                         .channels = PICK(1, 2, 3, 17),
                         .count_padding = (int)below(2),
                         .wide = below(8) == 0};
    const int rank = (int)PICK(1, 2, 2, 2, 3);
    const bool usual = below(2); /* kernels of their own have windows of 2 and of 3 at strides of 1 and 2 */
    const ptrdiff_t kernel = PICK(2, 3), stride = PICK(1, 2);
    for (int a = 0; a < 3; a++) {
        const bool used = a >= 3 - rank && !(usual && a == 0);
        p.dilation[a] = used && !usual ? PICK(1, 1, 2, 3) : 1;
        p.kernel[a] = !used ? 1 : usual ? kernel : 1 + below(5);
        p.stride[a] = !used ? 1 : usual ? stride : 1 + below(4);
        const ptrdiff_t extent = (p.kernel[a] - 1) * p.dilation[a] + 1;
        p.pad_before[a] = used ? below(extent) : 0;
        p.pad_after[a] = used ? below(extent) : 0;
        p.input[a] = used ? PICK(1, 2, 3, 5, 8, 13, 16, 31, 33, 70) : 1 + below(2) * (a < 1);
        const ptrdiff_t room = p.input[a] + p.pad_before[a] + p.pad_after[a] - extent;
        if (room < 0)
            return random_pool();
        p.output[a] = room / p.stride[a] + 1;
        if (used && (p.output[a] * p.stride[a] - p.pad_before[a]) < p.input[a])
            p.output[a] += below(2); /* rounded up: a window may hang over */
    }
    const double work = (double)fc_pool_elements(&p, 1) * (double)(p.kernel[0] * p.kernel[1] * p.kernel[2]);
    return work < 30000 ? p : random_pool();
}

/* Where element i of a plane of channel c of image n lies. */
static ptrdiff_t place(const fc_pool_problem *p, const ptrdiff_t lengths[3], ptrdiff_t plane, ptrdiff_t i)
{
    const ptrdiff_t size = lengths[0] * lengths[1] * lengths[2];
    if (p->layout == FC_CHANNELS_FIRST)
        return plane * size + i;
    return (plane / p->channels * size + i) * p->channels + plane % p->channels;
}

/* What a window of the textbook sees. */
typedef struct seen {
    double best, sum;
    ptrdiff_t where, inside, padded; /* flat index of the best, or -1; taps in the input, and in it or its padding */
} seen;

static seen look(const fc_pool_problem *p, array x, ptrdiff_t plane, ptrdiff_t o)
{
    seen s = {.best = -INFINITY, .where = -1};
    const ptrdiff_t at[3] = {o / p->output[2] / p->output[1], o / p->output[2] % p->output[1], o % p->output[2]};
    for (ptrdiff_t t = 0; t < p->kernel[0] * p->kernel[1] * p->kernel[2]; t++) {
        const ptrdiff_t tap[3] = {t / p->kernel[2] / p->kernel[1], t / p->kernel[2] % p->kernel[1], t % p->kernel[2]};
        ptrdiff_t i = 0;
        bool padded = true;
        for (int a = 0; a < 3; a++) {
            const ptrdiff_t c = at[a] * p->stride[a] - p->pad_before[a] + tap[a] * p->dilation[a];
            i = i < 0 || c < 0 || c >= p->input[a] ? -1 : i * p->input[a] + c;
            padded = padded && c < p->input[a] + p->pad_after[a];
        }
        s.padded += padded;
        if (i < 0)
            continue;
        s.inside++;
        const double v = element(x, p->dtype, place(p, p->input, plane, i));
        s.sum += v;
        if (s.where < 0 || v > s.best || (isnan(v) && !isnan(s.best))) {
            s.best = v;
            s.where = i;
        }
    }
    return s;
}

static void check_averages(const fc_pool_problem *p, array x, array dy, int threads)
{
    const ptrdiff_t x_size = fc_pool_elements(p, 0), y_size = fc_pool_elements(p, 1);
    const ptrdiff_t outputs = p->output[0] * p->output[1] * p->output[2];
    array y = new_array(y_size, p->dtype, below(2)), dx = new_array(x_size, p->dtype, below(2));
    CHECK(fc_avg_pool(p, x.data, y.data, threads) == FC_OK);
    CHECK(fc_avg_pool_backward(p, dy.data, dx.data, threads) == FC_OK);
    bool nothing = false;
    double forward = 0, backward = 0, size = 1; /* <y, dy> and <x, dx> */
    for (ptrdiff_t plane = 0; plane < p->batch * p->channels; plane++)
        for (ptrdiff_t o = 0; o < outputs; o++) {
            const ptrdiff_t at = place(p, p->output, plane, o);
            const seen s = look(p, x, plane, o);
            const double expected = s.sum / (double)(p->count_padding ? s.padded : s.inside),
                         v = element(y, p->dtype, at);
            CHECK(is_equal(v, expected) || fabs(v - expected) < 1e-5 * fmax(1, fabs(expected)));
            nothing = nothing || isnan(expected);
            forward += v * element(dy, p->dtype, at);
            size += fabs(v * element(dy, p->dtype, at));
        }
    for (ptrdiff_t i = 0; i < x_size; i++)
        backward += element(x, p->dtype, i) * element(dx, p->dtype, i);
    CHECK(nothing || fabs(forward - backward) < 1e-4 * size);
    free(y.memory);
    free(dx.memory);
}

static ptrdiff_t switch_at(array switches, bool wide, ptrdiff_t i)
{
    return wide ? (ptrdiff_t)((int64_t *)switches.data)[i] : ((int32_t *)switches.data)[i];
}

static void check_pool(const fc_pool_problem *p)
{
    const ptrdiff_t x_size = fc_pool_elements(p, 0), y_size = fc_pool_elements(p, 1), planes = p->batch * p->channels;
    const ptrdiff_t outputs = p->output[0] * p->output[1] * p->output[2];
    const fc_dtype index = p->wide ? FC_FLOAT64 : FC_FLOAT32; /* of the same size */
    array x = new_array(x_size, p->dtype, below(2)), dy = new_array(y_size, p->dtype, below(2));
    fill(x, p->dtype);
    fill(dy, p->dtype);
    for (ptrdiff_t i = 0; i < x_size; i++)
        if (below(30) == 0)
            put(x, p->dtype, i, below(2) ? NAN : -INFINITY);
    array y = new_array(y_size, p->dtype, false), dx = new_array(x_size, p->dtype, false);
    array where = new_array(y_size, FC_FLOAT64, false), unpooled = new_array(x_size, p->dtype, false);
    memset(dx.data, 0, dx.bytes);
    memset(unpooled.data, 0, unpooled.bytes);
    for (ptrdiff_t plane = 0; plane < planes; plane++)
        for (ptrdiff_t o = 0; o < outputs; o++) {
            const ptrdiff_t to = place(p, p->output, plane, o);
            const seen s = look(p, x, plane, o);
            const ptrdiff_t at = s.where;
            put(y, p->dtype, to, s.best);
            ((int64_t *)where.data)[to] = at;
            if (at < 0)
                continue;
            const ptrdiff_t from = place(p, p->input, plane, at);
            put(dx, p->dtype, from, element(dx, p->dtype, from) + element(dy, p->dtype, to));
            put(unpooled, p->dtype, from, element(dy, p->dtype, to));
        }
    const char *isa;
    for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            CHECK(fc_isa_select(isa) == FC_OK);
            array got = new_array(y_size, p->dtype, below(2)), back = new_array(x_size, p->dtype, below(2));
            array switches = new_array(y_size, index, below(2));
            CHECK(fc_max_pool(p, x.data, got.data, switches.data, threads) == FC_OK);
            check_equal(got, y, p->dtype, "max");
            for (ptrdiff_t o = 0; o < y_size; o++)
                CHECK(switch_at(switches, p->wide, o) == ((int64_t *)where.data)[o]);
            memset(got.data, 0xff, got.bytes);
            CHECK(fc_max_pool(p, x.data, got.data, NULL, threads) == FC_OK);
            check_equal(got, y, p->dtype, "max without switches");
            CHECK(fc_max_pool_backward(p, dy.data, switches.data, back.data, threads) == FC_OK);
            check_equal(back, dx, p->dtype, "gradient of max");
            CHECK(fc_max_unpool(p, dy.data, switches.data, back.data, threads) == FC_OK);
            check_equal(back, unpooled, p->dtype, "unpooling");
            CHECK(fc_max_unpool_backward(p, x.data, switches.data, got.data, threads) == FC_OK);
            for (ptrdiff_t o = 0; o < y_size; o++)
                CHECK(is_equal(element(got, p->dtype, o),
                               switch_at(switches, p->wide, o) < 0 ? 0 : element(y, p->dtype, o)));
            check_averages(p, dx, dy, threads);
            free(got.memory);
            free(back.memory);
            free(switches.memory);
        }
    array all[] = {x, dy, y, dx, where, unpooled};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].memory);
}

/* ---- batch normalization of some of the channels ---------------------------------------------------------------- */

static array part_of(array whole, fc_dtype dtype, ptrdiff_t outer, ptrdiff_t step, ptrdiff_t first, ptrdiff_t length)
{
    array part = new_array(outer * length, dtype, below(2));
    for (ptrdiff_t o = 0; o < outer; o++)
        for (ptrdiff_t i = 0; i < length; i++)
            put(part, dtype, o * length + i, element(whole, dtype, o * step + first + i));
    return part;
}

static void check_batch_norm(void)
{
    const fc_dtype dtype = (fc_dtype)below(2);
    const size_t size = dtype == FC_FLOAT32 ? sizeof(float) : sizeof(double);
    fc_batch_norm n = {.problem = {dtype, 2 + below(9), PICK(1, 3, 8, 17, 40), PICK(1, 1, 5, 33, 64)},
                       .eps = 1e-5,
                       .training = (int)below(2),
                       .relu = (int)below(2)};
    const ptrdiff_t outer = n.problem.outer, channels = n.problem.channels, inner = n.problem.inner;
    const ptrdiff_t all = channels + 1 + below(20), first = below(2) * (all - channels), length = channels * inner;
    array whole = new_array(outer * all * inner, dtype, below(2)), dy = new_array(outer * length, dtype, below(2));
    fill(whole, dtype);
    fill(dy, dtype);
    array part = part_of(whole, dtype, outer, all * inner, first * inner, length);
    double mean[2][40], variance[2][40];
    const char *isa;
    for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++) {
        CHECK(fc_isa_select(isa) == FC_OK);
        array y[2], dx[2], dw[2], db[2];
        for (int apart = 0; apart < 2; apart++) {
            for (ptrdiff_t c = 0; c < channels; c++) {
                mean[apart][c] = 0.5;
                variance[apart][c] = 2;
            }
            n.mean = mean[apart];
            n.variance = variance[apart];
            n.x_step = apart ? all * inner : 0;
            const void *x = apart ? (char *)whole.data + (size_t)(first * inner) * size : part.data;
            y[apart] = new_array(outer * length, dtype, below(2));
            dx[apart] = new_array(outer * length, dtype, below(2));
            dw[apart] = new_array(channels, dtype, below(2));
            db[apart] = new_array(channels, dtype, below(2));
            CHECK(fc_batch_norm_forward(&n, x, y[apart].data, 1 + apart) == FC_OK);
            CHECK(fc_batch_norm_backward(&n, dy.data, x, dx[apart].data, dw[apart].data, db[apart].data, 1 + apart) ==
                  FC_OK);
        }
        check_equal(y[1], y[0], dtype, "batch normalization");
        check_equal(dx[1], dx[0], dtype, "its gradient");
        check_equal(dw[1], dw[0], dtype, "its weight's");
        check_equal(db[1], db[0], dtype, "its bias'");
        CHECK(!memcmp(mean[0], mean[1], sizeof(double) * (size_t)channels));
        CHECK(!isnan(element(y[0], dtype, 0)) && !isnan(element(dx[0], dtype, outer * length - 1)));
        for (int apart = 0; apart < 2; apart++) {
            array done[] = {y[apart], dx[apart], dw[apart], db[apart]};
            for (size_t j = 0; j < sizeof done / sizeof *done; j++)
                free(done[j].memory);
        }
    }
    n.x_step = length > 1 ? length - 1 : -1;
    CHECK(fc_batch_norm_forward(&n, whole.data, whole.data, 1) == FC_INVALID);
    free(whole.memory);
    free(dy.memory);
    free(part.memory);
}

/* ---- softmax of few classes, rows ------------------------------------------------------------------------------- */

static void check_softmax(void)
{
    const fc_softmax_problem p = {(fc_dtype)below(2), PICK(1, 2, 31, 33, 65), PICK(1, 10, 31, 32, 33), PICK(1, 1, 5)};
    const ptrdiff_t n = fc_softmax_elements(&p);
    array x = new_array(n, p.dtype, below(2));
    fill(x, p.dtype);
    const char *isa;
    for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++) {
        CHECK(fc_isa_select(isa) == FC_OK);
        array y = new_array(n, p.dtype, below(2)), dx = new_array(n, p.dtype, below(2));
        CHECK(fc_softmax(&p, x.data, y.data, 1 + (int)below(3)) == FC_OK);
        CHECK(fc_softmax_backward(&p, x.data, y.data, dx.data, 1 + (int)below(3)) == FC_OK);
        for (ptrdiff_t o = 0; o < p.outer; o++)
            for (ptrdiff_t k = 0; k < p.inner; k++) {
                double sum = 0, slopes = 0;
                for (ptrdiff_t c = 0; c < p.classes; c++) {
                    sum += element(y, p.dtype, (o * p.classes + c) * p.inner + k);
                    slopes += element(dx, p.dtype, (o * p.classes + c) * p.inner + k);
                }
                CHECK(fabs(sum - 1) < 1e-5 && fabs(slopes) < 1e-5);
            }
        free(y.memory);
        free(dx.memory);
    }
    free(x.memory);
}

static void check_rows(void)
{
    const fc_dtype dtype = (fc_dtype)below(2);
    const ptrdiff_t size = dtype == FC_FLOAT32 ? 4 : 8, rows = 1 + below(9), length = PICK(1, 7, 64, 5000);
    const ptrdiff_t from_step = length + below(20), to_step = length + below(20);
    array from = new_array((rows - 1) * from_step + length, dtype, below(2)),
          to = new_array((rows - 1) * to_step + length, dtype, below(2));
    fill(from, dtype);
    fill(to, dtype);
    array before = new_array((rows - 1) * to_step + length, dtype, false);
    memcpy(before.data, to.data, to.bytes);
    CHECK(fc_add_rows(dtype, from.data, from_step * size, to.data, to_step * size, rows, length * size, 3) == FC_OK);
    for (int copied = 0; copied < 2; copied++) {
        for (ptrdiff_t i = 0; i < (rows - 1) * to_step + length; i++) {
            const ptrdiff_t row = i / to_step, column = i % to_step;
            const double own = element(before, dtype, i),
                         other = column < length ? element(from, dtype, row * from_step + column) : 0;
            CHECK(element(to, dtype, i) == (copied && column < length ? other : own + other));
        }
        CHECK(fc_copy_rows(from.data, from_step * size, to.data, to_step * size, rows, length * size, 3) == FC_OK);
    }
    free(from.memory);
    free(to.memory);
    free(before.memory);
}

int main(int argc, char **argv)
{
    long problems = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    for (long i = 0; i < problems; i++) {
        const fc_pool_problem p = random_pool();
        check_pool(&p);
        check_batch_norm();
        check_softmax();
        check_rows();
    }
    printf("ok, %ld problems\n", problems);
    return 0;
}

/* test_core.c -- plans over many random problems: every pass, type, layout, algorithm and instruction set against the
 * reference. Arrays and workspaces are exactly as large as promised, so that a sanitizer sees every step outside, and are
 * filled with NaN beforehand, so that what is read unset or left unwritten shows.
 *
 * Usage: test_core [problems [seed]] */
#include "fastconv.h"

#include "arrays.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* ---- problems ---------------------------------------------------------------------------------------------- */

enum { LARGEST_WORK = 200000 }; /* products of a problem: sanitizers and emulators are slow */

static fc_conv_problem random_problem(void)
{
    for (;;) {
        fc_conv_problem p = {
            .pass = (fc_pass)below(3),
            .dtype = (fc_dtype)below(2),
            .layout = (fc_layout)below(2),
            .batch = PICK(0, 1, 1, 2, 3),
            .groups = PICK(1, 1, 1, 2, 3),
            .relu = (int)below(2),
        };
        int rank = (int)PICK(1, 2, 2, 2, 2, 3);
        if (below(6) == 0) { /* depthwise, at times with a multiplier */
            p.groups = p.in_channels = PICK(1, 3, 16, 37);
            p.out_channels = p.groups * PICK(1, 1, 2);
        } else {
            p.in_channels = p.groups * PICK(1, 2, 3, 5, 16, 33, 300);
            p.out_channels = p.groups * PICK(1, 2, 3, 7, 16, 33, 70);
        }
        double work = (double)p.batch * (double)p.in_channels * (double)(p.out_channels / p.groups);
        bool fits = true;
        for (int a = 0; a < 3; a++) {
            bool used = a >= 3 - rank;
            p.input[a] = used ? 1 + below(below(4) ? 12 : 70) : 1;
            p.kernel[a] = used ? PICK(1, 1, 2, 3, 3, 3, 4, 5, 7, 11) : 1;
            p.stride[a] = used ? PICK(1, 1, 1, 2, 3, 5) : 1;
            p.dilation[a] = used ? PICK(1, 1, 1, 2, 3) : 1;
            p.pad_before[a] = used ? PICK(0, 0, 1, 1, 2, 3, 6) : 0;
            p.pad_after[a] = used ? PICK(0, 0, 1, 1, 2, 3, 6) : 0;
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
    printf("pass %d, dtype %d, layout %d, batch %td, channels %td -> %td, groups %td, relu %d", p->pass, p->dtype,
           p->layout, p->batch, p->in_channels, p->out_channels, p->groups, p->relu);
    for (int a = 0; a < 3; a++)
        printf("; input %td+%td+%td, kernel %td, stride %td, dilation %td", p->pad_before[a], p->input[a],
               p->pad_after[a], p->kernel[a], p->stride[a], p->dilation[a]);
    printf("\n");
}

/* ---- arrays ------------------------------------------------------------------------------------------------- */

/* x, weight, bias and y of a problem. */
typedef struct arrays {
    array of[4];
} arrays;

static bool written(fc_pass pass, int which)
{
    static const bool table[3][4] = {
        [FC_FORWARD] = {false, false, false, true},
        [FC_BACKWARD_INPUT] = {true, false, false, false},
        [FC_BACKWARD_WEIGHT] = {false, true, true, false},
    };
    return table[pass][which];
}

/* Runs the plan with arrays that share `from`'s inputs and have outputs of their own. */
static arrays run(const fc_conv_plan *plan, const fc_conv_problem *p, const arrays *from, bool bias, int threads)
{
    arrays to = *from;
    for (int i = 0; i < 4; i++)
        if (written(p->pass, i))
            to.of[i] = new_array(fc_conv_plan_elements(plan, i), p->dtype, i % 2 == 0);
    fc_conv_arrays c = {to.of[0].data, to.of[1].data, bias ? to.of[2].data : NULL, to.of[3].data};
    size_t bytes = fc_conv_plan_workspace(plan, threads);
    void *workspace = NULL;
    CHECK(posix_memalign(&workspace, FC_ALIGNMENT, bytes + (bytes == 0)) == 0);
    memset(workspace, 0xff, bytes);
    fc_conv_plan_run(plan, &c, workspace, threads);
    free(workspace);
    return to;
}

static void free_written(arrays *a, fc_pass pass)
{
    for (int i = 0; i < 4; i++)
        if (written(pass, i))
            free(a->of[i].memory);
}

/* ---- the comparison ------------------------------------------------------------------------------------------- */

static long plans_run;

static void compare(const fc_conv_problem *p, const char *algorithm, size_t limit, const arrays *inputs, bool bias,
                    const arrays *expected)
{
    fc_conv_plan *plan;
    char reason[256];
    fc_status status = fc_conv_plan_create(p, algorithm, limit, &plan, reason, sizeof reason);
    if (status == FC_UNSUPPORTED) {
        CHECK(plan == NULL && reason[0] != '\0');
        return;
    }
    CHECK(status == FC_OK);
    static const int counts[] = {1, 3, 40}; /* the last: more than such plans can use */
    for (int t = 0; t < 3; t++) {
        const int threads = counts[t];
        if (limit == 0)
            CHECK(fc_conv_plan_workspace(plan, threads) <= (size_t)threads << 26);
        arrays got = run(plan, p, inputs, bias, threads);
        plans_run++;
        double tolerance =
            strcmp(fc_conv_plan_algorithm(plan), "winograd") == 0 ? p->dtype == FC_FLOAT32 ? 5e-5 : 1e-13 : 0;
        for (int i = 0; i < 4; i++)
            if (written(p->pass, i) && (i != 2 || bias) &&
                !same(got.of[i], expected->of[i], p->dtype, i == 2 ? 0 : tolerance)) {
                printf("array %d, algorithm %s on %s, %d threads, limit %zu, bias %d\n", i,
                       fc_conv_plan_algorithm(plan), fc_isa(), threads, limit, bias);
                print_problem(p);
                exit(1);
            }
        free_written(&got, p->pass);
    }
    fc_conv_plan_destroy(plan);
}

static void check_problem(const fc_conv_problem *p)
{
    fc_conv_plan *reference;
    char reason[256];
    CHECK(fc_conv_plan_create(p, "reference", 0, &reference, reason, sizeof reason) == FC_OK);
    arrays inputs = {0};
    bool shifted = below(2), bias = below(2);
    for (int i = 0; i < 4; i++)
        if (!written(p->pass, i)) {
            inputs.of[i] = new_array(fc_conv_plan_elements(reference, i), p->dtype, shifted);
            fill(inputs.of[i], p->dtype);
        }
    arrays expected = run(reference, p, &inputs, bias, 1);

    const size_t limits[] = {0, 1, 1 << 16};
    const char *isa, *name;
    for (int i = 0; (isa = fc_isa_available(i)) != NULL; i++) {
        CHECK(fc_isa_select(isa) == FC_OK);
        compare(p, "auto", 0, &inputs, bias, &expected);
        for (int j = 0; (name = fc_conv_algorithm_name(j)) != NULL; j++)
            if (i == 0 || strcmp(name, "reference") != 0) /* slow, and the same on all of them */
                compare(p, name, limits[below(3)], &inputs, bias, &expected);
    }
    free_written(&expected, p->pass);
    for (int i = 0; i < 4; i++)
        free(inputs.of[i].memory);
    fc_conv_plan_destroy(reference);
}

/* ---- problems that make no sense ------------------------------------------------------------------------------- */

static void check_refused(fc_conv_problem p)
{
    fc_conv_plan *plan = (fc_conv_plan *)&p;
    char reason[256] = "", cut[8];
    CHECK(fc_conv_plan_create(&p, "auto", 0, &plan, reason, sizeof reason) == FC_INVALID);
    CHECK(plan == NULL && reason[0] != '\0');
    CHECK(fc_conv_plan_create(&p, "auto", 0, &plan, cut, sizeof cut) == FC_INVALID);
    CHECK(strncmp(cut, reason, sizeof cut - 1) == 0 && cut[sizeof cut - 1] == '\0');
    CHECK(fc_conv_plan_create(&p, "auto", 0, &plan, NULL, 0) == FC_INVALID);
    const char *declined;
    double cost;
    CHECK(fc_conv_algorithm_examine(0, &p, &declined, &cost) == FC_INVALID);
}

static void check_all_refused(void)
{
    const fc_conv_problem good = {
        .batch = 2,
        .in_channels = 4,
        .out_channels = 6,
        .groups = 2,
        .input = {1, 5, 5},
        .kernel = {1, 3, 3},
        .stride = {1, 1, 1},
        .dilation = {1, 1, 1},
    };
    fc_conv_plan *plan;
    CHECK(fc_conv_plan_create(&good, "no such", 0, &plan, NULL, 0) == FC_INVALID && plan == NULL);
    CHECK(fc_conv_plan_create(&good, "auto", 0, &plan, NULL, 0) == FC_OK);
    fc_conv_plan_destroy(plan);
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        fc_conv_problem p = good;                                                                                      \
        p.field = value;                                                                                               \
        check_refused(p);                                                                                              \
    } while (0)
    REFUSED(batch, -1);
    REFUSED(batch, PTRDIFF_MAX);
    REFUSED(in_channels, 0);
    REFUSED(in_channels, 5);
    REFUSED(in_channels, PTRDIFF_MAX - 1);
    REFUSED(out_channels, 7);
    REFUSED(out_channels, PTRDIFF_MIN);
    REFUSED(out_channels, PTRDIFF_MAX / 2 - 1);
    REFUSED(groups, 0);
    REFUSED(groups, -2);
    for (int a = 0; a < 3; a++) {
        const ptrdiff_t bad[] = {0, -1, PTRDIFF_MAX, PTRDIFF_MIN};
        for (int i = 0; i < 4; i++) {
            REFUSED(input[a], bad[i]);
            REFUSED(kernel[a], bad[i]);
            REFUSED(stride[a], bad[i]);
            REFUSED(dilation[a], bad[i]);
            if (i > 0) {
                REFUSED(pad_before[a], bad[i]);
                REFUSED(pad_after[a], bad[i]);
            }
        }
        REFUSED(kernel[a], 6);
    }
    REFUSED(dilation[2], 3); /* the window reaches over 7 of 5 */
    REFUSED(input[2], PTRDIFF_MAX / 64);
    REFUSED(pad_after[1], PTRDIFF_MAX / 128);
#undef REFUSED
}

int main(int argc, char **argv)
{
    long problems = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    check_all_refused();
    for (long i = 0; i < problems; i++) {
        fc_conv_problem p = random_problem();
        check_problem(&p);
    }
    printf("ok: %ld problems, %ld runs, on", problems, plans_run);
    for (int i = 0; fc_isa_available(i) != NULL; i++)
        printf(" %s", fc_isa_available(i));
    printf("\n");
    return 0;
}

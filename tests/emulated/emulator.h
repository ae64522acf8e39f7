/* emulator.h -- CUDA's words in plain C++, so that kernels compile for the CPU and their arithmetic can be tested anywhere.
 *
 * Blocks run one after the other. A block's threads are run one after the other too, each up to the next __syncthreads(),
 * where it waits on a stack of its own until all others have come there. */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define FC_EMULATED 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static

struct Dim {
    unsigned x, y, z;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator
{

struct Fiber {
    jmp_buf here;
    ucontext_t context;
    bool begun = false;
    unsigned thread;
    std::vector<char> stack = std::vector<char>(1 << 18);
};

static std::vector<Fiber *> idle, waiting;
static Fiber *current;
static jmp_buf scheduler;
static unsigned next_thread, finished;
static const std::function<void()> *body;

static void work()
{
    for (;;) {
        while (next_thread < blockDim.x) {
            current->thread = next_thread++;
            threadIdx = {current->thread, 0, 0};
            (*body)();
            finished++;
        }
        idle.push_back(current);
        if (!_setjmp(current->here))
            _longjmp(scheduler, 1);
    }
}

static void resume(Fiber *fiber)
{
    current = fiber;
    if (_setjmp(scheduler))
        return;
    if (fiber->begun)
        _longjmp(fiber->here, 1);
    fiber->begun = true;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = NULL;
    makecontext(&fiber->context, work, 0);
    setcontext(&fiber->context);
}

/* 0, or 1 if not all threads came to a barrier */
static int run_block()
{
    next_thread = finished = 0;
    while (finished < blockDim.x) {
        while (next_thread < blockDim.x) {
            Fiber *fiber;
            if (idle.empty())
                fiber = new Fiber;
            else {
                fiber = idle.back();
                idle.pop_back();
            }
            resume(fiber);
        }
        std::vector<Fiber *> all;
        all.swap(waiting);
        if (!all.empty() && all.size() != blockDim.x)
            return 1;
        for (Fiber *fiber : all)
            resume(fiber);
    }
    return 0;
}

static int run(const std::function<void()> &kernel, const unsigned *grid, unsigned threads)
{
    body = &kernel;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                if (run_block())
                    return 1;
            }
    return 0;
}

/* What an argument is: p and a letter for pointers, else the letter. */
template <class T> const char *letter()
{
    return std::is_same<T, float>::value                ? "f"
           : std::is_same<T, double>::value             ? "d"
           : std::is_same<T, int>::value                ? "i"
           : std::is_same<T, long long>::value          ? "l"
           : std::is_same<T, unsigned long long>::value ? "u"
                                                        : "s";
}

template <class... A> void describe(void (*)(A...), char *text)
{
    const char *words[] = {(std::is_pointer<A>::value ? "p" : "")...};
    const char *letters[] = {letter<typename std::remove_cv<typename std::remove_pointer<A>::type>::type>()...};
    const size_t sizes[] = {sizeof(typename std::remove_pointer<A>::type)...};
    for (size_t i = 0; i < sizeof...(A); i++)
        text += sprintf(text, "%s%s%zu ", words[i], letters[i], sizes[i]);
}

template <class... A, size_t... I> void call_with(void (*f)(A...), void **a, std::index_sequence<I...>)
{
    f(*(A *)a[I]...);
}
template <class... A> void call(void (*f)(A...), void **a) { call_with(f, a, std::index_sequence_for<A...>{}); }

} /* namespace emulator */

static void __syncthreads()
{
    emulator::Fiber *me = emulator::current;
    emulator::waiting.push_back(me);
    if (!_setjmp(me->here))
        _longjmp(emulator::scheduler, 1);
    threadIdx = {me->thread, 0, 0};
}

template <class T> static T atomicExch(T *p, T v)
{
    const T before = *p;
    *p = v;
    return before;
}
template <class T> static T atomicMax(T *p, T v)
{
    const T before = *p;
    *p = v > before ? v : before;
    return before;
}

#if FC_REAL == 2
static float fc_widen(unsigned short bits)
{
    _Float16 h;
    memcpy(&h, &bits, 2);
    return (float)h;
}
static unsigned short fc_narrow(float v)
{
    const _Float16 h = (_Float16)v;
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}
#elif FC_REAL == 3
static float fc_widen(unsigned short bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float v;
    memcpy(&v, &wide, 4);
    return v;
}
static unsigned short fc_narrow(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (unsigned short)(v != v ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

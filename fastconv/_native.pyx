# cython: language_level=3, boundscheck=False, wraparound=False
"""The seam to the C library: plans and calls. No arithmetic, no loops over elements."""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset, strcpy

from numpy import empty as numpy_empty

cnp.import_array()

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_status:
        FC_OK
        FC_INVALID
        FC_UNSUPPORTED
        FC_NOMEM
    ctypedef enum fc_dtype:
        FC_FLOAT32
        FC_FLOAT64
    ctypedef enum fc_layout:
        FC_CHANNELS_FIRST
        FC_CHANNELS_LAST
    ctypedef enum fc_pass:
        FC_FORWARD
        FC_BACKWARD_INPUT
        FC_BACKWARD_WEIGHT
    ctypedef struct fc_conv_problem:
        fc_pass pass_ "pass"
        fc_dtype dtype
        fc_layout layout
        ptrdiff_t batch, in_channels, out_channels, groups
        ptrdiff_t input[3]
        ptrdiff_t kernel[3]
        ptrdiff_t stride[3]
        ptrdiff_t dilation[3]
        ptrdiff_t pad_before[3]
        ptrdiff_t pad_after[3]
        int relu
    ctypedef struct fc_conv_arrays:
        void *x
        void *weight
        void *bias
        void *y
    ctypedef struct fc_conv_plan:
        pass
    fc_status fc_conv_plan_create(const fc_conv_problem *, const char *, size_t, fc_conv_plan **, char *, size_t)
    void fc_conv_plan_destroy(fc_conv_plan *)
    size_t fc_conv_plan_workspace(const fc_conv_plan *, int)
    void fc_conv_plan_run(const fc_conv_plan *, const fc_conv_arrays *, void *, int)
    const char *fc_conv_plan_algorithm(const fc_conv_plan *)
    ptrdiff_t fc_conv_plan_elements(const fc_conv_plan *, int)
    const char *fc_conv_algorithm_name(int)
    fc_status fc_conv_algorithm_examine(int, const fc_conv_problem *, const char **, double *)
    fc_status fc_local(const fc_conv_problem *, const fc_conv_arrays *, int)
    ptrdiff_t fc_local_elements(const fc_conv_problem *, int)
    ctypedef struct fc_pool_problem:
        fc_dtype dtype
        fc_layout layout
        ptrdiff_t batch, channels
        ptrdiff_t input[3]
        ptrdiff_t output[3]
        ptrdiff_t kernel[3]
        ptrdiff_t stride[3]
        ptrdiff_t dilation[3]
        ptrdiff_t pad_before[3]
        ptrdiff_t pad_after[3]
        int count_padding
        int wide
        int adaptive
    ptrdiff_t fc_pool_elements(const fc_pool_problem *, int)
    fc_status fc_max_pool(const fc_pool_problem *, const void *, void *, void *, int)
    fc_status fc_max_pool_backward(const fc_pool_problem *, const void *, const void *, void *, int)
    fc_status fc_max_unpool(const fc_pool_problem *, const void *, const void *, void *, int)
    fc_status fc_max_unpool_backward(const fc_pool_problem *, const void *, const void *, void *, int)
    fc_status fc_stochastic_pool(const fc_pool_problem *, const void *, void *, void *, uint64_t, int)
    fc_status fc_avg_pool(const fc_pool_problem *, const void *, void *, int)
    fc_status fc_avg_pool_backward(const fc_pool_problem *, const void *, void *, int)
    ptrdiff_t fc_columns_elements(const fc_pool_problem *)
    fc_status fc_im2col(const fc_pool_problem *, const void *, void *, int)
    fc_status fc_col2im(const fc_pool_problem *, const void *, void *, int)
    ctypedef enum fc_activation:
        FC_RELU
        FC_SIGMOID
        FC_TANH
    fc_status fc_activate(fc_activation, fc_dtype, const void *, void *, ptrdiff_t, int)
    fc_status fc_activate_backward(fc_activation, fc_dtype, const void *, const void *, void *, ptrdiff_t, int)
    ctypedef struct fc_softmax_problem:
        fc_dtype dtype
        ptrdiff_t outer, classes, inner
    ptrdiff_t fc_softmax_elements(const fc_softmax_problem *)
    fc_status fc_softmax(const fc_softmax_problem *, const void *, void *, int)
    fc_status fc_softmax_backward(const fc_softmax_problem *, const void *, const void *, void *, int)
    fc_status fc_cross_entropy(const fc_softmax_problem *, const void *, const int64_t *, const void *, void *, void *, double, int)
    ctypedef struct fc_sgd_step:
        double rate, momentum, weight_decay
        int nesterov
    fc_status fc_sgd(const fc_sgd_step *, fc_dtype, void *, const void *, void *, ptrdiff_t, int)
    const char *fc_isa_available(int)
    const char *fc_isa()
    fc_status fc_isa_select(const char *)
    int fc_openmp()
    int fc_default_threads()
    void fc_threads_set_apart(int)
    void fc_l2_set(ptrdiff_t)
    const char *fc_compiler()
    void *fc_memory_acquire(size_t)
    void fc_memory_release(void *)
    size_t fc_memory_size(const void *)
    void fc_memory_usage(size_t *, size_t *)
    void fc_memory_trim()


# ---- runtime ---------------------------------------------------------------------------------------------------

_isa_listeners = []


def isa_available():
    """Names of the instruction sets that are built in and supported here, best first."""
    names = []
    cdef int index = 0
    while fc_isa_available(index) != NULL:
        names.append(fc_isa_available(index).decode())
        index += 1
    return names


def isa_current():
    """Name of the instruction set that new plans use."""
    return fc_isa().decode()


def isa_select(name):
    """Use the named instruction set from now on ("" for the best)."""
    if fc_isa_select(name.encode()) != FC_OK:
        raise ValueError(f"instruction set {name!r} is not available; available: {', '.join(isa_available())}")
    for forget in _isa_listeners:
        forget()


def on_isa_change(forget):
    """Have `forget` called whenever the instruction set, or what tests set, changes: who caches plans drops them there."""
    _isa_listeners.append(forget)


def openmp():
    """Whether the library was compiled with OpenMP."""
    return bool(fc_openmp())


def default_threads():
    """Number of threads that affinity, cgroup quota and OMP_NUM_THREADS allow."""
    return fc_default_threads()


def set_apart(apart):
    """For tests: write what threads share past the caches (True) or not (False), or as is measured to be better (None)."""
    fc_threads_set_apart(-1 if apart is None else bool(apart))


def set_l2(size):
    """For tests: plan for second-level caches of `size` bytes, or for those that there are (None)."""
    fc_l2_set(size or 0)
    for forget in _isa_listeners:
        forget()


def compiler():
    """The compiler that built the library."""
    return fc_compiler().decode()


def memory_trim():
    """Give memory that is kept for the next calls back to the system."""
    fc_memory_trim()


def memory_usage():
    """Bytes in use by results and workspaces, and bytes of the pages that are held for them and for the next ones."""
    cdef size_t live, held
    fc_memory_usage(&live, &held)
    return live, held


# ---- memory of results (NEP 49): what an array gives up, the next one gets -----------------------------------------

cdef extern from "numpy/arrayobject.h":
    ctypedef struct DataHandler "PyDataMem_Handler":
        char name[127]
        cnp.npy_uint8 version
        cnp.PyDataMemAllocator allocator
    PyObject *PyDataMem_DefaultHandler

cdef size_t SMALLEST = 1 << 17  # bytes of a result worth keeping: with less, malloc is as quick


cdef void *result_new(void *context, size_t size) noexcept nogil:
    return fc_memory_acquire(size)


cdef void *result_zeros(void *context, size_t count, size_t each) noexcept nogil:
    if each and count > (<size_t>-1) // each:
        return NULL
    cdef void *memory = result_new(context, count * each)
    if memory != NULL:
        memset(memory, 0, count * each)
    return memory


cdef void *result_resized(void *context, void *old, size_t size) noexcept nogil:
    if old == NULL:
        return result_new(context, size)
    if size <= fc_memory_size(old):
        return old
    cdef void *memory = result_new(context, size)
    if memory != NULL:
        memcpy(memory, old, fc_memory_size(old))
        fc_memory_release(old)
    return memory


cdef void result_free(void *context, void *memory, size_t size) noexcept nogil:
    fc_memory_release(memory)


cdef DataHandler handler
strcpy(handler.name, b"fastconv")
handler.version = 1
handler.allocator.malloc = result_new
handler.allocator.calloc = result_zeros
handler.allocator.realloc = result_resized
handler.allocator.free = result_free
cdef object handler_capsule = PyCapsule_New(&handler, "mem_handler", NULL)


def empty(shape, dtype):
    """`numpy.empty`, of memory that is kept for the next result when the array is gone."""
    if not isinstance(dtype, cnp.dtype):
        dtype = cnp.dtype(dtype)
    cdef double size = (<cnp.dtype>dtype).itemsize
    if isinstance(shape, tuple):
        for length in <tuple>shape:
            size *= <double>length
    else:
        size *= <double>shape
    if size < SMALLEST:
        return numpy_empty(shape, dtype)
    before = cnp.PyDataMem_SetHandler(handler_capsule)
    try:
        if <PyObject *>before != PyDataMem_DefaultHandler:  # the user has one of their own
            cnp.PyDataMem_SetHandler(before)
        return numpy_empty(shape, dtype)
    finally:
        cnp.PyDataMem_SetHandler(before)


# ---- arrays ------------------------------------------------------------------------------------------------------

cdef int type_number(fc_dtype dtype) noexcept:
    return cnp.NPY_FLOAT32 if dtype == FC_FLOAT32 else cnp.NPY_FLOAT64


cdef fc_dtype dtype_of(str name) except *:
    if name == "float32":
        return FC_FLOAT32
    if name == "float64":
        return FC_FLOAT64
    raise TypeError(f"no kernels for dtype {name}")


cdef void *data_of(object array, int number, ptrdiff_t elements, bint written) except? NULL:
    """The address of an array that a kernel may use as it is; the last check before C."""
    if array is None:
        return NULL
    if not cnp.PyArray_Check(array):
        raise TypeError(f"expected a NumPy array, got {type(array).__name__}")
    cdef cnp.ndarray a = array
    if (cnp.PyArray_TYPE(a) != number or not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_SIZE(a) != elements
            or (written and not cnp.PyArray_ISWRITEABLE(a))):
        raise ValueError(f"array of dtype {a.dtype} and shape {array.shape} does not fit the plan")
    return cnp.PyArray_DATA(a)


# ---- convolution -------------------------------------------------------------------------------------------------

FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = FC_FORWARD, FC_BACKWARD_INPUT, FC_BACKWARD_WEIGHT


cdef fc_conv_problem problem_of(int which, str dtype, bint channels_last, ptrdiff_t batch, ptrdiff_t in_channels,
                                ptrdiff_t out_channels, ptrdiff_t groups, window, bint relu) except *:
    cdef fc_conv_problem p
    cdef int axis, skip = 3 - len(window.size)
    p.pass_ = <fc_pass>which
    p.dtype = dtype_of(dtype)
    p.layout = FC_CHANNELS_LAST if channels_last else FC_CHANNELS_FIRST
    p.batch, p.in_channels, p.out_channels, p.groups = batch, in_channels, out_channels, groups
    p.relu = relu
    for axis in range(3):
        p.input[axis] = p.kernel[axis] = p.stride[axis] = p.dilation[axis] = 1
        p.pad_before[axis] = p.pad_after[axis] = 0
        if axis >= skip:
            p.input[axis] = window.size[axis - skip]
            p.kernel[axis] = window.kernel[axis - skip]
            p.stride[axis] = window.stride[axis - skip]
            p.dilation[axis] = window.dilation[axis - skip]
            p.pad_before[axis], p.pad_after[axis] = window.padding[axis - skip]
    return p


def conv_algorithms(which, dtype, channels_last, batch, in_channels, out_channels, groups, window):
    """(name, reason it declines or None, estimated seconds) of every algorithm, in order of preference."""
    cdef fc_conv_problem problem = problem_of(which, dtype, channels_last, batch, in_channels, out_channels, groups, window, False)
    cdef const char *declined
    cdef double cost
    cdef int index = 0
    found = []
    while fc_conv_algorithm_name(index) != NULL:
        if fc_conv_algorithm_examine(index, &problem, &declined, &cost) != FC_OK:
            raise ValueError("not a valid problem")
        found.append((fc_conv_algorithm_name(index).decode(), None if declined == NULL else declined.decode(), cost))
        index += 1
    return found


@cython.final
cdef class ConvPlan:
    """One pass of one convolution, planned: immutable, may be run by many threads at once."""

    cdef fc_conv_plan *plan
    cdef int number, written

    def __cinit__(self, int which, str dtype, bint channels_last, batch, in_channels, out_channels, groups, window,
                  str algorithm="auto", bint relu=False, size_t workspace_limit=0):
        cdef char reason[256]
        cdef fc_conv_problem problem = problem_of(which, dtype, channels_last, batch, in_channels, out_channels, groups, window, relu)
        cdef fc_status status = fc_conv_plan_create(&problem, algorithm.encode(), workspace_limit, &self.plan, reason, sizeof(reason))
        if status == FC_NOMEM:
            raise MemoryError("no memory for a plan")
        if status == FC_UNSUPPORTED:
            raise NotImplementedError(reason.decode())
        if status != FC_OK:
            raise ValueError(reason.decode())
        self.number = type_number(problem.dtype)
        self.written = which

    def __dealloc__(self):
        fc_conv_plan_destroy(self.plan)

    @property
    def algorithm(self):
        """Name of the algorithm that was chosen."""
        return fc_conv_plan_algorithm(self.plan).decode()

    def workspace(self, int threads):
        """Bytes that a run takes besides its arrays."""
        return fc_conv_plan_workspace(self.plan, threads)

    def run(self, x, weight, bias, y, int threads):
        """Run the plan: it writes y (forward), x (input gradient, plus bias if one is given), or weight and bias."""
        cdef fc_conv_arrays arrays
        cdef fc_conv_plan *plan = self.plan
        cdef void *space = NULL
        cdef size_t size
        arrays.x = data_of(x, self.number, fc_conv_plan_elements(plan, 0), self.written == FC_BACKWARD_INPUT)
        arrays.weight = data_of(weight, self.number, fc_conv_plan_elements(plan, 1), self.written == FC_BACKWARD_WEIGHT)
        arrays.bias = data_of(bias, self.number, fc_conv_plan_elements(plan, 2), self.written == FC_BACKWARD_WEIGHT)
        arrays.y = data_of(y, self.number, fc_conv_plan_elements(plan, 3), self.written == FC_FORWARD)
        if y is None or x is None and (weight is not None or self.written != FC_BACKWARD_WEIGHT):
            raise ValueError("x and y must be arrays")
        if weight is None and self.written != FC_BACKWARD_WEIGHT:
            raise ValueError("weight must be an array")
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        size = fc_conv_plan_workspace(plan, threads)
        if size:
            space = fc_memory_acquire(size)
            if space == NULL:
                raise MemoryError(f"no memory for a workspace of {size} bytes")
        with nogil:
            fc_conv_plan_run(plan, &arrays, space, threads)
        if size:
            fc_memory_release(space)


# ---- pooling -----------------------------------------------------------------------------------------------------

cdef int refuse(fc_status status) except -1:
    if status == FC_NOMEM:
        raise MemoryError("no memory for a workspace")
    if status != FC_OK:
        raise ValueError("not a valid problem")
    return 0


cdef int check_threads(int threads) except -1:
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    return 0


@cython.final
cdef class PoolPlan:
    """One pooling, its shapes worked out: immutable, may be run by many threads at once."""

    cdef fc_pool_problem problem
    cdef ptrdiff_t x_elements, y_elements
    cdef int number, switch_number

    def __cinit__(self, str dtype, bint channels_last, batch, channels, window, bint count_padding, bint wide,
                  bint adaptive=False):
        cdef fc_pool_problem *p = &self.problem
        cdef int axis, skip = 3 - len(window.size)
        p.dtype = dtype_of(dtype)
        p.layout = FC_CHANNELS_LAST if channels_last else FC_CHANNELS_FIRST
        p.batch, p.channels = batch, channels
        p.count_padding, p.wide, p.adaptive = count_padding, wide, adaptive
        for axis in range(3):
            p.input[axis] = p.output[axis] = p.kernel[axis] = p.stride[axis] = p.dilation[axis] = 1
            p.pad_before[axis] = p.pad_after[axis] = 0
            if axis >= skip:
                p.input[axis] = window.size[axis - skip]
                p.output[axis] = window.output[axis - skip]
                p.kernel[axis] = window.kernel[axis - skip]
                p.stride[axis] = window.stride[axis - skip]
                p.dilation[axis] = window.dilation[axis - skip]
                p.pad_before[axis], p.pad_after[axis] = window.padding[axis - skip]
        self.x_elements = fc_pool_elements(p, 0)
        self.y_elements = fc_pool_elements(p, 1)
        self.number = type_number(p.dtype)
        self.switch_number = cnp.NPY_INT64 if wide else cnp.NPY_INT32
        if self.x_elements < 0 or self.y_elements < 0:
            raise ValueError("the arrays would be larger than memory can address")

    def max(self, x, y, switches, int threads):
        """Write the largest of each window, and where it is unless switches is None."""
        cdef void *px = data_of(x, self.number, self.x_elements, False)
        cdef void *py = data_of(y, self.number, self.y_elements, True)
        cdef void *ps = data_of(switches, self.switch_number, self.y_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL:
            raise ValueError("x and y must be arrays")
        with nogil:
            status = fc_max_pool(&self.problem, px, py, ps, threads)
        refuse(status)

    def max_backward(self, dy, switches, dx, int threads):
        """Add dy up where the switches say. False if one of them says nowhere."""
        cdef void *py = data_of(dy, self.number, self.y_elements, False)
        cdef void *ps = data_of(switches, self.switch_number, self.y_elements, False)
        cdef void *px = data_of(dx, self.number, self.x_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL or ps == NULL:
            raise ValueError("dy, switches and dx must be arrays")
        with nogil:
            status = fc_max_pool_backward(&self.problem, py, ps, px, threads)
        return status == FC_OK

    def unpool(self, y, switches, x, int threads):
        """Put y where the switches say, zeros elsewhere. False if one of them says nowhere."""
        cdef void *py = data_of(y, self.number, self.y_elements, False)
        cdef void *ps = data_of(switches, self.switch_number, self.y_elements, False)
        cdef void *px = data_of(x, self.number, self.x_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL or ps == NULL:
            raise ValueError("y, switches and x must be arrays")
        with nogil:
            status = fc_max_unpool(&self.problem, py, ps, px, threads)
        return status == FC_OK

    def unpool_backward(self, dx, switches, dy, int threads):
        """Take dy from where the switches say. False if one of them says nowhere."""
        cdef void *px = data_of(dx, self.number, self.x_elements, False)
        cdef void *ps = data_of(switches, self.switch_number, self.y_elements, False)
        cdef void *py = data_of(dy, self.number, self.y_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL or ps == NULL:
            raise ValueError("dx, switches and dy must be arrays")
        with nogil:
            status = fc_max_unpool_backward(&self.problem, px, ps, py, threads)
        return status == FC_OK

    def stochastic(self, x, y, switches, uint64_t seed, int threads):
        """Write one element of each window, drawn, and where it is."""
        cdef void *px = data_of(x, self.number, self.x_elements, False)
        cdef void *py = data_of(y, self.number, self.y_elements, True)
        cdef void *ps = data_of(switches, self.switch_number, self.y_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL or ps == NULL:
            raise ValueError("x, y and switches must be arrays")
        with nogil:
            status = fc_stochastic_pool(&self.problem, px, py, ps, seed, threads)
        refuse(status)

    def avg(self, x, y, int threads):
        """Write the average of each window."""
        cdef void *px = data_of(x, self.number, self.x_elements, False)
        cdef void *py = data_of(y, self.number, self.y_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL:
            raise ValueError("x and y must be arrays")
        with nogil:
            status = fc_avg_pool(&self.problem, px, py, threads)
        refuse(status)

    def im2col(self, x, columns, int threads):
        """Write what each window sees."""
        cdef void *px = data_of(x, self.number, self.x_elements, False)
        cdef void *pc = data_of(columns, self.number, fc_columns_elements(&self.problem), True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or pc == NULL:
            raise ValueError("x and columns must be arrays")
        with nogil:
            status = fc_im2col(&self.problem, px, pc, threads)
        refuse(status)

    def col2im(self, columns, x, int threads):
        """Add up what the windows saw."""
        cdef void *pc = data_of(columns, self.number, fc_columns_elements(&self.problem), False)
        cdef void *px = data_of(x, self.number, self.x_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or pc == NULL:
            raise ValueError("x and columns must be arrays")
        with nogil:
            status = fc_col2im(&self.problem, pc, px, threads)
        refuse(status)

    def avg_backward(self, dy, dx, int threads):
        """Write the gradient of the averages."""
        cdef void *py = data_of(dy, self.number, self.y_elements, False)
        cdef void *px = data_of(dx, self.number, self.x_elements, True)
        cdef fc_status status
        check_threads(threads)
        if px == NULL or py == NULL:
            raise ValueError("dy and dx must be arrays")
        with nogil:
            status = fc_avg_pool_backward(&self.problem, py, px, threads)
        refuse(status)


# ---- locally connected ---------------------------------------------------------------------------------------------

@cython.final
cdef class LocalPlan:
    """One pass of one locally connected layer: immutable, may be run by many threads at once."""

    cdef fc_conv_problem problem
    cdef int number

    def __cinit__(self, int which, str dtype, bint channels_last, batch, in_channels, out_channels, window):
        self.problem = problem_of(which, dtype, channels_last, batch, in_channels, out_channels, 1, window, False)
        self.number = type_number(self.problem.dtype)
        if fc_local_elements(&self.problem, 0) < 0:
            raise ValueError("the arrays would be larger than memory can address")

    def run(self, x, weight, bias, y, int threads):
        """Run the pass: it writes y (forward), x (input gradient), or weight and bias, each unless None."""
        cdef fc_conv_arrays arrays
        cdef fc_conv_problem *p = &self.problem
        cdef fc_status status
        cdef bint gradient = p.pass_ == FC_BACKWARD_WEIGHT
        arrays.x = data_of(x, self.number, fc_local_elements(p, 0), p.pass_ == FC_BACKWARD_INPUT)
        arrays.weight = data_of(weight, self.number, fc_local_elements(p, 1), gradient)
        arrays.bias = data_of(bias, self.number, fc_local_elements(p, 2), gradient)
        arrays.y = data_of(y, self.number, fc_local_elements(p, 3), p.pass_ == FC_FORWARD)
        check_threads(threads)
        if y is None or x is None or (weight is None and not gradient):
            raise ValueError("x, y and weight must be arrays")
        with nogil:
            status = fc_local(p, &arrays, threads)
        refuse(status)


# ---- elementwise and softmax -----------------------------------------------------------------------------------------

RELU, SIGMOID, TANH = FC_RELU, FC_SIGMOID, FC_TANH


cdef fc_dtype dtype_of_array(object array) except *:
    if not cnp.PyArray_Check(array):
        raise TypeError(f"expected a NumPy array, got {type(array).__name__}")
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>array)
    if number == cnp.NPY_FLOAT32:
        return FC_FLOAT32
    if number == cnp.NPY_FLOAT64:
        return FC_FLOAT64
    raise TypeError(f"no kernels for dtype {array.dtype}")


def activate(int kind, x, y, int threads):
    """y = f(x) for f = RELU, SIGMOID or TANH."""
    cdef fc_dtype dtype = dtype_of_array(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>x)
    cdef void *px = data_of(x, type_number(dtype), n, False)
    cdef void *py = data_of(y, type_number(dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL or not 0 <= kind <= <int>FC_TANH:
        raise ValueError("kind must be RELU, SIGMOID or TANH, and y an array")
    with nogil:
        status = fc_activate(<fc_activation>kind, dtype, px, py, n, threads)
    refuse(status)


def activate_backward(int kind, dy, y, dx, int threads):
    """dx = dy f'(x), from y = f(x)."""
    cdef fc_dtype dtype = dtype_of_array(y)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>y)
    cdef void *pdy = data_of(dy, type_number(dtype), n, False)
    cdef void *py = data_of(y, type_number(dtype), n, False)
    cdef void *pdx = data_of(dx, type_number(dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL or pdx == NULL or not 0 <= kind <= <int>FC_TANH:
        raise ValueError("kind must be RELU, SIGMOID or TANH, and dy and dx arrays")
    with nogil:
        status = fc_activate_backward(<fc_activation>kind, dtype, pdy, py, pdx, n, threads)
    refuse(status)


cdef fc_softmax_problem softmax_of(object array, outer, classes, inner) except *:
    cdef fc_softmax_problem p
    p.dtype = dtype_of_array(array)
    p.outer, p.classes, p.inner = outer, classes, inner
    if fc_softmax_elements(&p) < 0:
        raise ValueError("not a valid problem")
    return p


def softmax(x, y, outer, classes, inner, int threads):
    """y = softmax of x, seen as (outer, classes, inner), along the classes."""
    cdef fc_softmax_problem p = softmax_of(x, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *px = data_of(x, type_number(p.dtype), n, False)
    cdef void *py = data_of(y, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL:
        raise ValueError("y must be an array")
    with nogil:
        status = fc_softmax(&p, px, py, threads)
    refuse(status)


def softmax_backward(dy, y, dx, outer, classes, inner, int threads):
    """dx = the gradient of softmax, from its result y."""
    cdef fc_softmax_problem p = softmax_of(y, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *pdy = data_of(dy, type_number(p.dtype), n, False)
    cdef void *py = data_of(y, type_number(p.dtype), n, False)
    cdef void *pdx = data_of(dx, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL or pdx == NULL:
        raise ValueError("dy and dx must be arrays")
    with nogil:
        status = fc_softmax_backward(&p, pdy, py, pdx, threads)
    refuse(status)


def cross_entropy(logits, target, probabilities, loss, dlogits, double scale, outer, classes, inner, int threads):
    """Write each position's loss, and scale times its gradient unless dlogits is None. False if a target is no class."""
    cdef fc_softmax_problem p = softmax_of(logits, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *px = data_of(logits, type_number(p.dtype), n, False)
    cdef void *pt = data_of(target, cnp.NPY_INT64, p.outer * p.inner, False)
    cdef void *pp = data_of(probabilities, type_number(p.dtype), n, False)
    cdef void *pl = data_of(loss, type_number(p.dtype), p.outer * p.inner, True)
    cdef void *pd = data_of(dlogits, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pl == NULL or (pt == NULL) == (pp == NULL):
        raise ValueError("loss must be an array, and so must one of target and probabilities")
    with nogil:
        status = fc_cross_entropy(&p, px, <const int64_t *>pt, pp, pl, pd, scale, threads)
    return status == FC_OK


def sgd(value, grad, velocity, double rate, double momentum, double weight_decay, bint nesterov, int threads):
    """One step of gradient descent, in place; velocity is None without momentum."""
    cdef fc_sgd_step step
    cdef fc_dtype dtype = dtype_of_array(value)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>value)
    cdef void *pv = data_of(value, type_number(dtype), n, True)
    cdef void *pg = data_of(grad, type_number(dtype), n, False)
    cdef void *pm = data_of(velocity, type_number(dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pg == NULL:
        raise ValueError("grad must be an array")
    step.rate, step.momentum, step.weight_decay, step.nesterov = rate, momentum, weight_decay, nesterov
    with nogil:
        status = fc_sgd(&step, dtype, pv, pg, pm, n, threads)
    refuse(status)


# ---- normalization -----------------------------------------------------------------------------------------------

cdef extern from "fastconv.h" nogil:
    ctypedef struct fc_norm_problem:
        fc_dtype dtype
        ptrdiff_t outer, channels, inner
    ptrdiff_t fc_norm_elements(const fc_norm_problem *)
    ctypedef struct fc_batch_norm:
        fc_norm_problem problem
        const void *weight
        const void *bias
        double *mean
        double *variance
        double eps
        int training, relu
        ptrdiff_t x_step
    fc_status fc_batch_norm_forward(const fc_batch_norm *, const void *, void *, int)
    fc_status fc_batch_norm_backward(const fc_batch_norm *, const void *, const void *, void *, void *, void *, int)
    ctypedef struct fc_lrn:
        fc_norm_problem problem
        ptrdiff_t before, after
        double alpha, beta, k
    fc_status fc_lrn_forward(const fc_lrn *, const void *, void *, int)
    fc_status fc_lrn_backward(const fc_lrn *, const void *, const void *, void *, int)


cdef fc_norm_problem norm_of(object array, shape) except *:
    cdef fc_norm_problem p
    p.dtype = dtype_of_array(array)
    p.outer, p.channels, p.inner = shape
    if fc_norm_elements(&p) < 0:
        raise ValueError("not a valid problem")
    return p


cdef fc_batch_norm batch_norm_of(x, weight, bias, mean, variance, shape, double eps, bint training, bint relu,
                                 bint written) except *:
    cdef fc_batch_norm b
    b.problem = norm_of(x, shape)
    b.weight = data_of(weight, type_number(b.problem.dtype), b.problem.channels, False)
    b.bias = data_of(bias, type_number(b.problem.dtype), b.problem.channels, False)
    b.mean = <double *>data_of(mean, cnp.NPY_FLOAT64, b.problem.channels, written)
    b.variance = <double *>data_of(variance, cnp.NPY_FLOAT64, b.problem.channels, written)
    b.eps, b.training, b.relu, b.x_step = eps, training, relu, 0
    if b.mean == NULL or b.variance == NULL:
        raise ValueError("mean and variance must be arrays")
    return b


def lies_apart(cnp.ndarray a, ptrdiff_t outer):
    """Whether an array is that many dense pieces, longer ones apart than they are."""
    cdef int axis, split = first_dense(a)
    cdef ptrdiff_t stride, count = 1, size = cnp.PyArray_NBYTES(a)
    for axis in range(split):
        count *= cnp.PyArray_DIM(a, axis)
    return (size > 0 and count == outer and cnp.PyArray_ISBEHAVED_RO(a) and one_stride(a, split, &stride)
            and stride * count >= size and stride % cnp.PyArray_ITEMSIZE(a) == 0)


cdef void *outer_of(object array, fc_batch_norm *b) except? NULL:
    """The address of x, whose outer elements may lie apart; how far is noted."""
    cdef int number = type_number(b.problem.dtype)
    cdef ptrdiff_t stride, n = fc_norm_elements(&b.problem)
    if (not cnp.PyArray_Check(array) or cnp.PyArray_ISCARRAY_RO(array) or cnp.PyArray_TYPE(array) != number
            or cnp.PyArray_SIZE(array) != n or not lies_apart(array, b.problem.outer)):
        return data_of(array, number, n, False)
    one_stride(array, first_dense(array), &stride)
    b.x_step = stride // cnp.PyArray_ITEMSIZE(array)
    return cnp.PyArray_DATA(array)


def batch_norm(x, weight, bias, mean, variance, y, shape, double eps, bint training, bint relu, int threads):
    """y = x, seen as shape (outer, channels, inner), normalised; training, mean and variance are written."""
    cdef fc_batch_norm b = batch_norm_of(x, weight, bias, mean, variance, shape, eps, training, relu, training)
    cdef ptrdiff_t n = fc_norm_elements(&b.problem)
    cdef void *px = outer_of(x, &b)
    cdef void *py = data_of(y, type_number(b.problem.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL:
        raise ValueError("y must be an array")
    with nogil:
        status = fc_batch_norm_forward(&b, px, py, threads)
    refuse(status)


def follow(cnp.ndarray average, cnp.ndarray batch, double factor, double momentum):
    """average += momentum * (factor * batch - average) in double precision; False, and nothing done, if not of reals here."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(batch)
    cdef int number = cnp.PyArray_TYPE(average)
    if (number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64 or not cnp.PyArray_ISCARRAY(average)
            or cnp.PyArray_SIZE(average) != n):
        return False
    cdef double *b = <double *>data_of(batch, cnp.NPY_FLOAT64, n, False)
    cdef float *single = <float *>cnp.PyArray_DATA(average)
    cdef double *real = <double *>cnp.PyArray_DATA(average)
    for i in range(n):
        if number == cnp.NPY_FLOAT32:
            single[i] = <float>(single[i] + momentum * (factor * b[i] - single[i]))
        else:
            real[i] += momentum * (factor * b[i] - real[i])
    return True


def batch_norm_backward(dy, x, weight, bias, mean, variance, dx, dweight, dbias, shape, double eps, bint training,
                        bint relu, int threads):
    """Write dx, dweight and dbias, each unless None."""
    cdef fc_batch_norm b = batch_norm_of(x, weight, bias, mean, variance, shape, eps, training, relu, False)
    cdef int number = type_number(b.problem.dtype)
    cdef ptrdiff_t n = fc_norm_elements(&b.problem)
    cdef void *pdy = data_of(dy, number, n, False)
    cdef void *px = outer_of(x, &b)
    cdef void *pdx = data_of(dx, number, n, True)
    cdef void *pdw = data_of(dweight, number, b.problem.channels, True)
    cdef void *pdb = data_of(dbias, number, b.problem.channels, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL:
        raise ValueError("dy must be an array")
    with nogil:
        status = fc_batch_norm_backward(&b, pdy, px, pdx, pdw, pdb, threads)
    refuse(status)


def lrn(x, y, shape, before, after, double alpha, double beta, double k, int threads):
    """y = x (k + alpha * sum of the squares of channels c - before .. c + after)^-beta."""
    cdef fc_lrn l
    l.problem = norm_of(x, shape)
    l.before, l.after, l.alpha, l.beta, l.k = before, after, alpha, beta, k
    cdef ptrdiff_t n = fc_norm_elements(&l.problem)
    cdef void *px = data_of(x, type_number(l.problem.dtype), n, False)
    cdef void *py = data_of(y, type_number(l.problem.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL:
        raise ValueError("y must be an array")
    with nogil:
        status = fc_lrn_forward(&l, px, py, threads)
    refuse(status)


def lrn_backward(dy, x, dx, shape, before, after, double alpha, double beta, double k, int threads):
    """Gradient of lrn."""
    cdef fc_lrn l
    l.problem = norm_of(x, shape)
    l.before, l.after, l.alpha, l.beta, l.k = before, after, alpha, beta, k
    cdef ptrdiff_t n = fc_norm_elements(&l.problem)
    cdef void *pdy = data_of(dy, type_number(l.problem.dtype), n, False)
    cdef void *px = data_of(x, type_number(l.problem.dtype), n, False)
    cdef void *pdx = data_of(dx, type_number(l.problem.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL or pdx == NULL:
        raise ValueError("dy and dx must be arrays")
    with nogil:
        status = fc_lrn_backward(&l, pdy, px, pdx, threads)
    refuse(status)


# ---- maps with parameters, random masks, losses ------------------------------------------------------------------

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_map:
        FC_ADD_RELU
        FC_LEAKY
        FC_ELU
        FC_ELU_BACKWARD
        FC_SOFTPLUS
        FC_SOFTPLUS_BACKWARD
        FC_POWER
        FC_POWER_TIMES
        FC_SIGNED_POWER_TIMES
        FC_MIX
        FC_MAPS
    fc_status fc_map_elements(fc_map, fc_dtype, const void *, const void *, void *, ptrdiff_t, const double *, int)
    fc_status fc_copy_rows(const void *, ptrdiff_t, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, int)
    fc_status fc_add_rows(fc_dtype, const void *, ptrdiff_t, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, int)
    fc_status fc_prelu(const fc_norm_problem *, const void *, const void *, const void *, void *, int)
    fc_status fc_dropout(fc_dtype, const void *, void *, ptrdiff_t, double, uint64_t, int)
    fc_status fc_rrelu(fc_dtype, const void *, const void *, void *, ptrdiff_t, double, double, uint64_t, int)
    fc_status fc_log_softmax(const fc_softmax_problem *, const void *, void *, int)
    fc_status fc_log_softmax_backward(const fc_softmax_problem *, const void *, const void *, void *, int)
    fc_status fc_hinge(const fc_softmax_problem *, const void *, const int64_t *, void *, void *, double, double, int)
    fc_status fc_squared_error(fc_dtype, const void *, const void *, ptrdiff_t, double, double *, void *, void *, int)
    fc_status fc_plane_means(fc_dtype, const void *, ptrdiff_t, ptrdiff_t, void *, int)
    fc_status fc_plane_means_backward(fc_dtype, const void *, ptrdiff_t, ptrdiff_t, void *, int)

MAPS = {
    "add_relu": FC_ADD_RELU,
    "leaky": FC_LEAKY,
    "elu": FC_ELU,
    "elu_backward": FC_ELU_BACKWARD,
    "softplus": FC_SOFTPLUS,
    "softplus_backward": FC_SOFTPLUS_BACKWARD,
    "power": FC_POWER,
    "power_times": FC_POWER_TIMES,
    "signed_power_times": FC_SIGNED_POWER_TIMES,
    "mix": FC_MIX,
}


def map_elements(str kind, a, b, out, double p, double q, int threads):
    """out = f(a, b), f with two parameters; MAPS has the kinds."""
    cdef fc_dtype dtype = dtype_of_array(a)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    cdef void *pa = data_of(a, type_number(dtype), n, False)
    cdef void *pb = data_of(b, type_number(dtype), n, False)
    cdef void *po = data_of(out, type_number(dtype), n, True)
    cdef int which = MAPS[kind]
    cdef double parameters[2]
    cdef fc_status status
    check_threads(threads)
    if pb == NULL or po == NULL:
        raise ValueError("b and out must be arrays")
    parameters[0], parameters[1] = p, q
    with nogil:
        status = fc_map_elements(<fc_map>which, dtype, pa, pb, po, n, parameters, threads)
    refuse(status)


cdef int first_dense(cnp.ndarray a) noexcept:
    """The first of the axes that lie without gaps."""
    cdef int axis = cnp.PyArray_NDIM(a)
    cdef ptrdiff_t expected = cnp.PyArray_ITEMSIZE(a)
    while axis > 0 and (cnp.PyArray_DIM(a, axis - 1) == 1 or cnp.PyArray_STRIDE(a, axis - 1) == expected):
        axis -= 1
        expected *= cnp.PyArray_DIM(a, axis)
    return axis


cdef bint one_stride(cnp.ndarray a, int axes, ptrdiff_t *stride) noexcept:
    """Whether the first axes are walked by one stride, and which."""
    cdef ptrdiff_t expected = 0
    cdef bint found = False
    stride[0] = 0
    for axis in range(axes - 1, -1, -1):
        if cnp.PyArray_DIM(a, axis) == 1:
            continue
        if not found:
            stride[0] = expected = cnp.PyArray_STRIDE(a, axis)
            found = True
        elif cnp.PyArray_STRIDE(a, axis) != expected:
            return False
        expected *= cnp.PyArray_DIM(a, axis)
    return True


cdef ptrdiff_t SHORTEST = 64  # bytes of a row: NumPy is as good at what is less


def rows(cnp.ndarray source, cnp.ndarray target, bint add, int threads):
    """target = source, or target += source; False, and nothing done, if they are not both rows at one distance."""
    cdef ptrdiff_t source_stride, target_stride, count = 1, size = cnp.PyArray_ITEMSIZE(source)
    cdef int axis, split, number = cnp.PyArray_TYPE(source)
    cdef fc_status status
    cdef fc_dtype dtype = FC_FLOAT32 if number == cnp.NPY_FLOAT32 else FC_FLOAT64
    check_threads(threads)
    if ((<object>source).dtype != (<object>target).dtype or cnp.PyArray_NDIM(source) != cnp.PyArray_NDIM(target)
            or not cnp.PyArray_ISWRITEABLE(target) or (<object>source).dtype.hasobject):
        return False
    if add and (number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64 or not cnp.PyArray_ISBEHAVED_RO(source)
                or not cnp.PyArray_ISBEHAVED_RO(target)):
        return False
    split = max(first_dense(source), first_dense(target))
    for axis in range(cnp.PyArray_NDIM(source)):
        if cnp.PyArray_DIM(source, axis) != cnp.PyArray_DIM(target, axis):
            return False
        if axis < split:
            count *= cnp.PyArray_DIM(source, axis)
        else:
            size *= cnp.PyArray_DIM(source, axis)
    if (not one_stride(source, split, &source_stride) or not one_stride(target, split, &target_stride)
            or size < SHORTEST):
        return False
    cdef const void *from_ = cnp.PyArray_DATA(source)
    cdef void *to = cnp.PyArray_DATA(target)
    with nogil:
        if add:
            status = fc_add_rows(dtype, from_, source_stride, to, target_stride, count, size, threads)
        else:
            status = fc_copy_rows(from_, source_stride, to, target_stride, count, size, threads)
    refuse(status)
    return True


def prelu(a, b, weight, out, shape, int threads):
    """out = a where b, seen as shape (outer, channels, inner), is positive, weight a elsewhere."""
    cdef fc_norm_problem p = norm_of(a, shape)
    cdef ptrdiff_t n = fc_norm_elements(&p)
    cdef void *pa = data_of(a, type_number(p.dtype), n, False)
    cdef void *pb = data_of(b, type_number(p.dtype), n, False)
    cdef void *pw = data_of(weight, type_number(p.dtype), p.channels, False)
    cdef void *po = data_of(out, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pb == NULL or pw == NULL or po == NULL:
        raise ValueError("b, weight and out must be arrays")
    with nogil:
        status = fc_prelu(&p, pa, pb, pw, po, threads)
    refuse(status)


def dropout(a, out, double p, uint64_t seed, int threads):
    """out = a / (1 - p) or, with probability p, 0."""
    cdef fc_dtype dtype = dtype_of_array(a)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    cdef void *pa = data_of(a, type_number(dtype), n, False)
    cdef void *po = data_of(out, type_number(dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if po == NULL:
        raise ValueError("out must be an array")
    with nogil:
        status = fc_dropout(dtype, pa, po, n, p, seed, threads)
    refuse(status)


def rrelu(a, b, out, double low, double high, uint64_t seed, int threads):
    """out = a where b is positive, a times a random number from low to high elsewhere."""
    cdef fc_dtype dtype = dtype_of_array(a)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    cdef void *pa = data_of(a, type_number(dtype), n, False)
    cdef void *pb = data_of(b, type_number(dtype), n, False)
    cdef void *po = data_of(out, type_number(dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pb == NULL or po == NULL:
        raise ValueError("b and out must be arrays")
    with nogil:
        status = fc_rrelu(dtype, pa, pb, po, n, low, high, seed, threads)
    refuse(status)


def log_softmax(x, y, outer, classes, inner, int threads):
    """y = log softmax of x, seen as (outer, classes, inner), along the classes."""
    cdef fc_softmax_problem p = softmax_of(x, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *px = data_of(x, type_number(p.dtype), n, False)
    cdef void *py = data_of(y, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL:
        raise ValueError("y must be an array")
    with nogil:
        status = fc_log_softmax(&p, px, py, threads)
    refuse(status)


def log_softmax_backward(dy, y, dx, outer, classes, inner, int threads):
    """dx = the gradient of log_softmax, from its result y."""
    cdef fc_softmax_problem p = softmax_of(y, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *pdy = data_of(dy, type_number(p.dtype), n, False)
    cdef void *py = data_of(y, type_number(p.dtype), n, False)
    cdef void *pdx = data_of(dx, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL or pdx == NULL:
        raise ValueError("dy and dx must be arrays")
    with nogil:
        status = fc_log_softmax_backward(&p, pdy, py, pdx, threads)
    refuse(status)


def hinge(x, target, loss, dx, double margin, double scale, outer, classes, inner, int threads):
    """Write each position's loss, and scale times its gradient unless dx is None. False if a target is no class."""
    cdef fc_softmax_problem p = softmax_of(x, outer, classes, inner)
    cdef ptrdiff_t n = fc_softmax_elements(&p)
    cdef void *px = data_of(x, type_number(p.dtype), n, False)
    cdef void *pt = data_of(target, cnp.NPY_INT64, p.outer * p.inner, False)
    cdef void *pl = data_of(loss, type_number(p.dtype), p.outer * p.inner, True)
    cdef void *pd = data_of(dx, type_number(p.dtype), n, True)
    cdef fc_status status
    check_threads(threads)
    if pt == NULL or pl == NULL:
        raise ValueError("target and loss must be arrays")
    with nogil:
        status = fc_hinge(&p, px, <const int64_t *>pt, pl, pd, margin, scale, threads)
    return status == FC_OK


def squared_error(a, b, squares, slopes, double scale, int threads):
    """The sum of (a - b)^2; squares gets each, slopes scale (a - b), unless None."""
    cdef fc_dtype dtype = dtype_of_array(a)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>a)
    cdef void *pa = data_of(a, type_number(dtype), n, False)
    cdef void *pb = data_of(b, type_number(dtype), n, False)
    cdef void *ps = data_of(squares, type_number(dtype), n, True)
    cdef void *pd = data_of(slopes, type_number(dtype), n, True)
    cdef double total
    cdef fc_status status
    check_threads(threads)
    if pb == NULL:
        raise ValueError("b must be an array")
    with nogil:
        status = fc_squared_error(dtype, pa, pb, n, scale, &total, ps, pd, threads)
    refuse(status)
    return total


def plane_means(planes, means, bint backward, int threads):
    """Write the averages of planes, as many as there are means; or the planes, their gradient."""
    cdef fc_dtype dtype = dtype_of_array(planes)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray>planes)
    cdef fc_dtype other = dtype_of_array(means)
    cdef ptrdiff_t count = cnp.PyArray_SIZE(<cnp.ndarray>means)
    cdef void *pp = data_of(planes, type_number(dtype), n, backward)
    cdef void *pm = data_of(means, type_number(dtype), count, not backward)
    cdef fc_status status
    check_threads(threads)
    if other != dtype or count < 1 or n < count or n % count:
        raise ValueError("planes must be as many as means, and all alike")
    with nogil:
        if backward:
            status = fc_plane_means_backward(dtype, pm, count, n // count, pp, threads)
        else:
            status = fc_plane_means(dtype, pp, count, n // count, pm, threads)
    refuse(status)


# ---- storage types -----------------------------------------------------------------------------------------------

cdef extern from "fastconv.h" nogil:
    ctypedef enum fc_storage:
        FC_FLOAT16
        FC_BFLOAT16
    fc_status fc_widen(fc_storage, const void *, float *, ptrdiff_t, int)
    fc_status fc_narrow(fc_storage, const float *, void *, ptrdiff_t, int)
    fc_status fc_relu_stored(fc_storage, const void *, void *, ptrdiff_t, int)
    fc_status fc_relu_backward_stored(fc_storage, const void *, const void *, void *, ptrdiff_t, int)

FLOAT16, BFLOAT16 = FC_FLOAT16, FC_BFLOAT16


def widen(int kind, bits, to, int threads):
    """Write the numbers that are stored in `bits`, an array of uint16, to an array of float32."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray?>bits)
    cdef void *pb = data_of(bits, cnp.NPY_UINT16, n, False)
    cdef void *pt = data_of(to, cnp.NPY_FLOAT32, n, True)
    cdef fc_status status
    check_threads(threads)
    if pt == NULL or not 0 <= kind <= <int>FC_BFLOAT16:
        raise ValueError("kind must be FLOAT16 or BFLOAT16, and to an array")
    with nogil:
        status = fc_widen(<fc_storage>kind, pb, <float *>pt, n, threads)
    refuse(status)


def narrow(int kind, values, bits, int threads):
    """Store an array of float32 in `bits`, an array of uint16."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray?>values)
    cdef void *pv = data_of(values, cnp.NPY_FLOAT32, n, False)
    cdef void *pb = data_of(bits, cnp.NPY_UINT16, n, True)
    cdef fc_status status
    check_threads(threads)
    if pb == NULL or not 0 <= kind <= <int>FC_BFLOAT16:
        raise ValueError("kind must be FLOAT16 or BFLOAT16, and bits an array")
    with nogil:
        status = fc_narrow(<fc_storage>kind, <float *>pv, pb, n, threads)
    refuse(status)


def relu_stored(int kind, x, y, int threads):
    """y = max(x, 0) of stored numbers, both arrays of uint16."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray?>x)
    cdef void *px = data_of(x, cnp.NPY_UINT16, n, False)
    cdef void *py = data_of(y, cnp.NPY_UINT16, n, True)
    cdef fc_status status
    check_threads(threads)
    if py == NULL or px == py or not 0 <= kind <= <int>FC_BFLOAT16:
        raise ValueError("kind must be FLOAT16 or BFLOAT16, and y another array")
    with nogil:
        status = fc_relu_stored(<fc_storage>kind, px, py, n, threads)
    refuse(status)


def relu_backward_stored(int kind, dy, y, dx, int threads):
    """dx = dy where y is positive, of stored numbers, all arrays of uint16."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(<cnp.ndarray?>y)
    cdef void *pdy = data_of(dy, cnp.NPY_UINT16, n, False)
    cdef void *py = data_of(y, cnp.NPY_UINT16, n, False)
    cdef void *pdx = data_of(dx, cnp.NPY_UINT16, n, True)
    cdef fc_status status
    check_threads(threads)
    if pdy == NULL or pdx == NULL or pdx == pdy or pdx == py or not 0 <= kind <= <int>FC_BFLOAT16:
        raise ValueError("kind must be FLOAT16 or BFLOAT16, and dy and dx other arrays")
    with nogil:
        status = fc_relu_backward_stored(<fc_storage>kind, pdy, py, pdx, n, threads)
    refuse(status)

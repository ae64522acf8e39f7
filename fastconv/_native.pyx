# cython: language_level=3, boundscheck=False, wraparound=False
"""The seam to the C library: plans and calls. No arithmetic, no loops over elements."""

cimport cython
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

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
    const char *fc_isa_available(int)
    const char *fc_isa()
    fc_status fc_isa_select(const char *)
    int fc_openmp()
    int fc_default_threads()
    const char *fc_compiler()
    void *fc_workspace_acquire(size_t)
    void fc_workspace_release(void *)
    void fc_workspace_trim()


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
    """Have `forget` called whenever the instruction set changes: who caches plans drops them there."""
    _isa_listeners.append(forget)


def openmp():
    """Whether the library was compiled with OpenMP."""
    return bool(fc_openmp())


def default_threads():
    """Number of threads that affinity, cgroup quota and OMP_NUM_THREADS allow."""
    return fc_default_threads()


def compiler():
    """The compiler that built the library."""
    return fc_compiler().decode()


def workspace_trim():
    """Give idle workspaces back to the system."""
    fc_workspace_trim()


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
        """Run the plan: it writes y (forward), x (input gradient), or weight and bias (weight gradient)."""
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
            space = fc_workspace_acquire(size)
            if space == NULL:
                raise MemoryError(f"no memory for a workspace of {size} bytes")
        with nogil:
            fc_conv_plan_run(plan, &arrays, space, threads)
        if size:
            fc_workspace_release(space)

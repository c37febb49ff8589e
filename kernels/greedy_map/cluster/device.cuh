// What select.cu asks of a GPU: threads of a warp, of a program and of a cluster, and memory.
// A cluster needs compute capability 9.0.

// The best token of some: one 64-bit word in two halves, and what its reader would have to fetch.
struct __align__(16) Post {
  unsigned high, low;
  float newest, weight;
};

__device__ inline int thread_number() { return threadIdx.x; }
__device__ inline int block_number() { return blockIdx.x; }

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

__device__ inline void block_sync() { __syncthreads(); }

// Until all programs of the cluster are here, whose shared memory is then ready.
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ inline unsigned warp_max(unsigned value) { return __reduce_max_sync(~0u, value); }
__device__ inline unsigned warp_ballot(bool is) { return __ballot_sync(~0u, is); }
__device__ inline float warp_from(float value, int lane) { return __shfl_sync(~0u, value, lane); }
__device__ inline float warp_across(float value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline float quotient(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline float inverse_root(float a) { return __frsqrt_rn(a); }
__device__ inline unsigned bits_of(float value) { return __float_as_uint(value); }
__device__ inline float float_of(unsigned bits) { return __uint_as_float(bits); }
// Branches with different numbers stay branches. Of those that differ by an index alone the compiler
// would make one, and what is indexed at run time is not in registers.
template <int NUMBER>
__device__ inline void keep_apart() {
  asm volatile("// %0" ::"n"(NUMBER));
}

__device__ inline int first_bit(unsigned bits) { return __ffs(bits) - 1; }

__device__ inline unsigned shared_address(const void* pointer) {
  return (unsigned)__cvta_generic_to_shared(pointer);
}

// An mbarrier, whose phase ends when so many bytes have come as it was armed for.
__device__ inline void mailbox_init(unsigned long long* mailbox) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(mailbox)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mailbox_arm(unsigned long long* mailbox, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"
               ::"r"(shared_address(mailbox)), "r"(bytes)
               : "memory");
}

// The wait is of CTA scope: what has come lies in the program's own shared memory. A wider one would
// empty the L1 cache at every step.
__device__ inline void mailbox_wait(unsigned long long* mailbox, int parity) {
  unsigned done = 0;
  while (!done) {
    asm volatile(
        "{ .reg .pred p;"
        "  mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
        "  selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(shared_address(mailbox)), "r"(parity)
        : "memory");
  }
}

// Store a post where another program of the cluster has `post`, and count it in its mailbox.
__device__ inline void mailbox_send(int rank, Post* post, unsigned long long* mailbox, Post value) {
  unsigned to, in;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(to)
               : "r"(shared_address(post)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(in)
               : "r"(shared_address(mailbox)), "r"(rank));
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
      ::"r"(to), "r"(value.high), "r"(value.low), "r"(bits_of(value.newest)),
        "r"(bits_of(value.weight)), "r"(in)
      : "memory");
}

// Values that programs hand each other through global memory, word by word, in no order: a word
// says itself whether it has been written.
__device__ inline void publish(float* place, float value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(place), "r"(bits_of(value)) : "memory");
}

__device__ inline float asked(const float* place) {
  unsigned bits;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(bits) : "l"(place) : "memory");
  return float_of(bits);
}

// The value at a place, of which `read` has been read.
__device__ inline float published(const float* place, float read) {
  while (bits_of(read) == ~0u) read = asked(place);
  return read;
}

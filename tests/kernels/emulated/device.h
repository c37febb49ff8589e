// A GPU for select.cu, on a CPU: every thread is a fiber, and they take turns in any order.
// What threads store for others in global memory arrives some turns later, in any order.

#include <ucontext.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __cluster_dims__(...)
#define __launch_bounds__(...)

struct alignas(16) Post {
  unsigned high, low;
  float newest, weight;
};

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  unsigned slots[32];
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 << 10);
  int thread, block;
  bool done = false;
};

struct Store {
  float* place;
  float value;
};

static ucontext_t scheduler;
static Fiber* running;
static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::vector<Barrier> blocks, clusters;
static std::vector<std::vector<unsigned char>> shared_memories;
static std::vector<Store> on_their_way;

static void take_turns() { swapcontext(&running->context, &scheduler); }

static void meet(Barrier& barrier, int size) {
  unsigned generation = barrier.generation;
  if (++barrier.arrived == size) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation) take_turns();
}

static int thread_number() { return running->thread; }
static int block_number() { return running->block; }
static unsigned char* shared_memory() { return shared_memories[running->block].data(); }
static void block_sync() { meet(blocks[running->block], 32 * WARPS); }
static void cluster_sync() { meet(clusters[running->block / CLUSTER], 32 * WARPS * CLUSTER); }

static float float_of(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static unsigned bits_of(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}
static float fused(float a, float b, float c) { return std::fma(a, b, c); }
static float quotient(float a, float b) { return a / b; }
static float inverse_root(float a) { return (float)(1.0 / std::sqrt((double)a)); }
static int first_bit(unsigned bits) { return ffs((int)bits) - 1; }
template <int NUMBER>
static void keep_apart() {}

static Warp& with_slot(unsigned bits) {
  Warp& warp = warps[running->block * WARPS + running->thread / 32];
  warp.slots[running->thread % 32] = bits;
  meet(warp.barrier, 32);
  return warp;
}
static unsigned warp_max(unsigned value) {
  Warp& warp = with_slot(value);
  for (unsigned other : warp.slots) value = other > value ? other : value;
  meet(warp.barrier, 32);
  return value;
}
static unsigned warp_ballot(bool is) {
  Warp& warp = with_slot(is);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= warp.slots[lane] << lane;
  meet(warp.barrier, 32);
  return bits;
}
static float warp_from(float value, int lane) {
  Warp& warp = with_slot(bits_of(value));
  value = float_of(warp.slots[lane]);
  meet(warp.barrier, 32);
  return value;
}
static float warp_across(float value, int mask) {
  return warp_from(value, running->thread % 32 ^ mask);
}

// A mailbox: bytes still to come, whether it is armed, and phases that have ended.
struct Mailbox {
  short bytes;
  short armed;
  unsigned phase;
};
static void check(Mailbox* mailbox) {
  if (mailbox->armed && mailbox->bytes == 0) {
    mailbox->armed = 0;
    ++mailbox->phase;
  }
}
static void mailbox_init(unsigned long long* mailbox) { memset(mailbox, 0, 8); }
static void mailbox_arm(unsigned long long* place, int bytes) {
  Mailbox* mailbox = (Mailbox*)place;
  mailbox->bytes += bytes;
  mailbox->armed = 1;
  check(mailbox);
}
static void mailbox_wait(unsigned long long* mailbox, int parity) {
  while ((int)(((Mailbox*)mailbox)->phase % 2) == parity) take_turns();
}
static void mailbox_send(int rank, Post* post, unsigned long long* mailbox, Post value) {
  unsigned char* other = shared_memories[running->block / CLUSTER * CLUSTER + rank].data();
  *(Post*)(other + ((unsigned char*)post - shared_memory())) = value;
  Mailbox* in = (Mailbox*)(other + ((unsigned char*)mailbox - shared_memory()));
  in->bytes -= sizeof(Post);
  check(in);
}

static void publish(float* place, float value) { on_their_way.push_back({place, value}); }
static float asked(const float* place) { return *place; }
static float published(const float* place, float read) {
  while (bits_of(read) == ~0u) {
    take_turns();
    read = *place;
  }
  return read;
}

static std::function<void()> program;
static void run_program() {
  program();
  running->done = true;
  take_turns();
}

// Bytes behind a block's shared memory, which it must leave as they are.
static const int BEYOND = 4096;

// Run all threads of a launch to their end. Returns whether they came to it, and kept to their memory.
static bool launch(int num_blocks, int shared_bytes, unsigned seed, std::function<void()> run) {
  program = run;
  int threads = 32 * WARPS, left = num_blocks * threads;
  srand(seed);
  fibers = std::vector<Fiber>(left);
  warps = std::vector<Warp>(num_blocks * WARPS);
  blocks = std::vector<Barrier>(num_blocks);
  clusters = std::vector<Barrier>(num_blocks / CLUSTER);
  shared_memories.assign(num_blocks, std::vector<unsigned char>(shared_bytes + BEYOND, 0xff));
  for (int number = 0; number < (int)fibers.size(); ++number) {
    Fiber& fiber = fibers[number];
    fiber.thread = number % threads;
    fiber.block = number / threads;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, run_program, 0);
  }
  for (long long rounds = 0; left > 0; ++rounds) {
    if (rounds > 1000000) return false;
    int first = rand() % fibers.size(), slow = rand() % num_blocks;
    for (size_t each = 0; each < fibers.size(); ++each) {
      Fiber& fiber = fibers[(first + each) % fibers.size()];
      if (fiber.done || fiber.block == slow) continue;
      running = &fiber;
      swapcontext(&scheduler, &fiber.context);
      left -= fiber.done;
    }
    for (size_t each = 0; each < on_their_way.size();) {
      if (rand() % 3) {
        *on_their_way[each].place = on_their_way[each].value;
        on_their_way[each] = on_their_way.back();
        on_their_way.pop_back();
      } else {
        ++each;
      }
    }
  }
  for (const auto& memory : shared_memories)
    for (int place = shared_bytes; place < shared_bytes + BEYOND; ++place)
      if (memory[place] != 0xff) return false;
  return true;
}

// Greedy MAP of images, each by one cluster of CLUSTER programs of WARPS warps.
//
// Tokens are dealt out to programs and warps one by one. A warp holds TOKENS of them, and of each
// the row of the factor in registers: lane l has the columns k with k % 32 == l. What does not fit
// is in shared memory. A step, whose posts have been sent by the step before:
//
//   1. all warps' posts are in the shared memory of each program: everyone knows the pick
//   2. the pick's row of the factor, from where its owner published it, to shared memory
//   3. dot products of that row with those of a warp's tokens, one sum over all its lanes
//   4. residuals, and the best token of a warp, whose post goes to all programs
//   5. the new column to registers, while posts are on their way
//
// A row is not written anew before all warps have read it, since they post after that. No step
// waits for a store: posts count themselves in, and of a row every word is read until it
// has been written. What is added up in which order depends on the columns alone, not on how many
// tokens there are nor on who has them.

const int THREADS = 32 * WARPS;
const int ROW = 32 * FEW_BLOCKS;  // most columns in registers
const float NONE = -1.0f / 0.0f;  // residual of what cannot be picked

const int POSTS = CLUSTER * WARPS;

struct Shared {
  Post posts[2][POSTS];
  unsigned long long mailboxes[2];
  float lowest[WARPS], highest[WARPS];
};

// One image, as plan [6, images] of the host has it; rows are numbered from its first.
struct Image {
  const float* triangle;     // cosines, the lower triangle row by row
  const float* relevance;    // [length], or null: all alike
  const long long* rows;     // [count] numbered from the first row of all images, or null: all rows
  float* factor;             // [length, stride], all words ~0
  long long* picks;          // [budget]
  long long first;           // its first row among those of all images
  int count, budget, stride;
};

__device__ inline float cosine(const Image& image, int a, int b) {
  int high = a > b ? a : b, low = a > b ? b : a;
  return image.triangle[high * (high + 1) / 2 + low];
}

__device__ inline int row_of(const Image& image, int token) {
  return image.rows ? (int)(image.rows[token] - image.first) : token;
}

// The best post of a warp's lanes; the lowest row where words would tie.
__device__ inline Post best_of_warp(Post post) {
  unsigned high = warp_max(post.high);
  unsigned low = warp_max(post.high == high ? post.low : 0u);
  int lane = first_bit(warp_ballot(post.high == high && post.low == low));
  return {high, low, warp_from(post.newest, lane), warp_from(post.weight, lane)};
}

// The best of the posts of all warps. All lanes call it.
__device__ inline Post best_of_posts(const Post* posts) {
  int lane = thread_number() % 32;
  Post best = {0u, 0u, 0.0f, 0.0f};
#pragma unroll
  for (int first = 0; first < POSTS; first += 32) {
    Post post = first + lane < POSTS ? posts[first + lane] : Post{0u, 0u, 0.0f, 0.0f};
    if (post.high > best.high || (post.high == best.high && post.low > best.low)) best = post;
  }
  return best_of_warp(best);
}

// A word of any residual that is more than rounding comes before all words of weights.
__device__ inline Post post_of(float residual, float weight, float floor, int row, float newest) {
  if (residual == NONE) return {0u, 0u, 0.0f, 0.0f};
  bool is_new = residual > floor * (weight * weight);
  unsigned high = is_new ? bits_of(residual) | 0x80000000u : bits_of(weight);
  return {high, ~(unsigned)row, newest, weight};
}

// Relevance of a row on a scale with maximum 1; constant: 1. All threads call it.
__device__ inline float scaled_relevance(const Image& image, Shared& shared, int row) {
  if (!image.relevance) return 1.0f;
  int lane = thread_number() % 32, warp = thread_number() / 32;
  float low = -NONE, high = NONE;
  for (int token = thread_number(); token < image.count; token += THREADS) {
    float relevance = image.relevance[row_of(image, token)];
    low = relevance < low ? relevance : low;
    high = relevance > high ? relevance : high;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    float other = warp_across(low, mask);
    low = other < low ? other : low;
    other = warp_across(high, mask);
    high = other > high ? other : high;
  }
  if (lane == 0) shared.lowest[warp] = low, shared.highest[warp] = high;
  block_sync();
  for (int each = 0; each < WARPS; ++each) {
    low = shared.lowest[each] < low ? shared.lowest[each] : low;
    high = shared.highest[each] > high ? shared.highest[each] : high;
  }
  return low == high ? 1.0f : quotient(image.relevance[row], high);
}

// Sums over all lanes of values[i], i < SIZE; lane l gets that of i = l / (32 / SIZE), in values[0].
template <int SIZE, int LANES = 32>
__device__ inline void sum_over_warp(float* values) {
  if constexpr (LANES > 1) {
    const int KEPT = SIZE > 1 ? SIZE / 2 : 1;
    bool upper = thread_number() & (LANES / 2);
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
      float kept = values[i], sent = values[i];
      if (SIZE > 1) {
        kept = upper ? values[i + KEPT] : values[i];
        sent = upper ? values[i] : values[i + KEPT];
      }
      values[i] = kept + warp_across(sent, LANES / 2);
    }
    sum_over_warp<KEPT, LANES / 2>(values);
  }
}

// Put a column of TOKENS values, which all lanes have, where it belongs in a warp's registers.
template <int BLOCK = 0, int TOKENS, int BLOCKS>
__device__ inline void put_column(float (&factor)[TOKENS][BLOCKS], const float* added, int column) {
  if (column / 32 == BLOCK) {
    keep_apart<BLOCK>();
#pragma unroll
    for (int i = 0; i < TOKENS; ++i)
      factor[i][BLOCK] = column % 32 == thread_number() % 32 ? added[i] : factor[i][BLOCK];
  }
  if constexpr (BLOCK + 1 < BLOCKS) put_column<BLOCK + 1>(factor, added, column);
}

// All steps of one image. A warp holds up to TOKENS tokens, of which BLOCKS * 32 columns are in
// registers; SIZE is a power of two, and has room for TOKENS.
template <int TOKENS, int SIZE, int BLOCKS>
__device__ void select_image(const Image& image, Shared& shared, float* pick_row, float* rest,
                             float residual_floor) {
  const int LANES = 32 / SIZE, RESIDENT = 32 * BLOCKS;
  int thread = thread_number(), lane = thread % 32, warp = thread / 32;
  int rank = block_number() % CLUSTER;
  int stride_rest = image.budget > RESIDENT ? (image.budget - RESIDENT + 31) / 32 * 32 : 0;
  rest += warp * TOKENS * stride_rest;
  for (int k = thread; k < RESIDENT + stride_rest; k += THREADS) pick_row[k] = 0.0f;
  for (int i = lane; i < TOKENS * stride_rest; i += 32) rest[i] = 0.0f;

  // The token that this lane speaks for.
  int own = lane / LANES, token = (own * WARPS + warp) * CLUSTER + rank;
  bool speaks = lane % LANES == 0 && own < TOKENS && token < image.count;
  int row = row_of(image, speaks ? token : 0);
  float weight = scaled_relevance(image, shared, row);
  // Before the first pick a residual is the squared weight, exactly.
  float residual = cosine(image, row, row) > 0.0f ? weight * weight : 0.0f;
  if (!speaks) residual = NONE;
  float* own_factor = image.factor + (long long)row * image.stride;
  float factor[TOKENS][BLOCKS];
#pragma unroll
  for (int i = 0; i < TOKENS; ++i)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) factor[i][block] = 0.0f;
  float value = 0.0f;

  if (thread < 2) {
    mailbox_init(&shared.mailboxes[thread]);
    mailbox_arm(&shared.mailboxes[thread], sizeof(shared.posts[thread]));
  }
  cluster_sync();
  for (int step = 0;; ++step) {
    Post post = best_of_warp(post_of(residual, weight, residual_floor, row, value));
    int turn = step % 2;
    if (lane < CLUSTER)
      mailbox_send(lane, &shared.posts[turn][rank * WARPS + warp], &shared.mailboxes[turn], post);
    if (step > 0) {
      int column = step - 1;
      float added[TOKENS];
#pragma unroll
      for (int i = 0; i < TOKENS; ++i) added[i] = warp_from(value, i * LANES);
      put_column(factor, added, column);
      if (column >= RESIDENT && lane == 0) {
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) rest[i * stride_rest + column - RESIDENT] = added[i];
      }
    }

    mailbox_wait(&shared.mailboxes[turn], step / 2 % 2);
    post = best_of_posts(shared.posts[turn]);
    if (thread == 0) mailbox_arm(&shared.mailboxes[turn], sizeof(shared.posts[turn]));
    int pick = (int)~post.low;
    if (rank == 0 && thread == 0) image.picks[step] = image.first + pick;
    if (step + 1 == image.budget) return;

    // These come from far, so all of them are asked for first.
    float entry = cosine(image, row, pick);
    const float* pick_factor = image.factor + (long long)pick * image.stride;
    float near = thread < step - 1 ? asked(pick_factor + thread) : post.newest;
    // A weight is no variance: of picks that the others span nothing is projected out.
    bool is_new = post.high >> 31;
    float scale = is_new ? inverse_root(float_of(post.high & 0x7fffffffu)) : 0.0f;
    float pair_weight = weight * post.weight;
    if (thread < step) pick_row[thread] = published(pick_factor + thread, near);
    for (int k = thread + THREADS; k < step; k += THREADS) {
      float far = k < step - 1 ? asked(pick_factor + k) : post.newest;
      pick_row[k] = published(pick_factor + k, far);
    }
    block_sync();

    float sums[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE; ++i) sums[i] = 0.0f;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      if (32 * block < step) {
        float at_pick = pick_row[32 * block + lane];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) sums[i] = fused(factor[i][block], at_pick, sums[i]);
      }
    }
    for (int k = RESIDENT + lane; k - lane < step; k += 32) {
      float at_pick = pick_row[k];
#pragma unroll
      for (int i = 0; i < TOKENS; ++i)
        sums[i] = fused(rest[i * stride_rest + k - RESIDENT], at_pick, sums[i]);
    }
    sum_over_warp<SIZE>(sums);
    float projected = sums[0];

    if (speaks) {
      value = (entry * pair_weight - projected) * scale;
      residual = residual == NONE || row == pick ? NONE : fused(-value, value, residual);
      publish(own_factor + step, value);
    }
  }
}

// plan int64 [6, images]: number of the image in counts, first row, length, first pick, budget,
//     start of the triangle
// factor float32 [rows, stride]: all bits 1, which no value has
// grid: CLUSTER programs for each image, which are a cluster
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    select_cluster(const float* similarity, const float* relevance, const long long* plan,
                   const long long* rows, const long long* counts, float* factor, int stride,
                   long long* picks, float residual_floor, int num_images) {
  int number = block_number() / CLUSTER;
  plan += number;
  Image image;
  image.first = plan[num_images];
  image.count = (int)(counts ? counts[plan[0]] : plan[2 * num_images]);
  image.budget = (int)plan[4 * num_images];
  image.triangle = similarity + plan[5 * num_images];
  image.relevance = relevance ? relevance + image.first : nullptr;
  image.rows = rows ? rows + image.first : nullptr;
  image.factor = factor + image.first * stride;
  image.stride = stride;
  image.picks = picks + plan[3 * num_images];
  if (counts && image.count == image.budget) {  // all of a pool is picked
    int token = block_number() % CLUSTER * THREADS + thread_number();
    for (; token < image.count; token += CLUSTER * THREADS)
      image.picks[token] = image.first + row_of(image, token);
    return;
  }
  Shared& shared = *(Shared*)shared_memory();
  float* pick_row = (float*)(shared_memory() + sizeof(Shared));
  int columns = (image.budget + 31) / 32 * 32;
  float* rest = pick_row + (columns > ROW ? columns : ROW);
  if (image.count <= CLUSTER * WARPS * FEW)
    select_image<FEW, 16, FEW_BLOCKS>(image, shared, pick_row, rest, residual_floor);
  else
    select_image<MANY, 32, MANY_BLOCKS>(image, shared, pick_row, rest, residual_floor);
}

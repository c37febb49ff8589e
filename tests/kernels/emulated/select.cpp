// The kernel of greedy MAP by clusters, run by device.h; it returns whether it came to its end.

#include "device.h"

#include "../../../kernels/greedy_map/cluster/select.cu"

extern "C" bool emulate(unsigned seed, int num_blocks, int shared_bytes, const float* similarity,
                        const float* relevance, const long long* plan, const long long* rows,
                        const long long* counts, float* factor, int stride, long long* picks,
                        float residual_floor, int num_images) {
  return launch(num_blocks, shared_bytes, seed, [&] {
    select_cluster(similarity, relevance, plan, rows, counts, factor, stride, picks, residual_floor,
                   num_images);
  });
}

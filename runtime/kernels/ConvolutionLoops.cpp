#include "runtime/kernels/ConvolutionLoops.h"

namespace terra::runtime {

#if defined(__x86_64__)
extern const ConvolutionLoops convolutionLoopsAvx2, convolutionLoopsAvx512;

const ConvolutionLoops *convolutionLoops() {
  static const ConvolutionLoops *loops = []() -> const ConvolutionLoops * {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
      return &convolutionLoopsAvx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &convolutionLoopsAvx2 : nullptr;
  }();
  return loops;
}
#else
const ConvolutionLoops *convolutionLoops() { return nullptr; }
#endif

} // namespace terra::runtime

#define TERRA_LANES 16
#include "runtime/kernels/ConvolutionLoops.inc"

namespace terra::runtime {
extern const ConvolutionLoops convolutionLoopsAvx512;
const ConvolutionLoops convolutionLoopsAvx512{TERRA_LANES, 6, 4, 6, &correlate, &multiply};
} // namespace terra::runtime

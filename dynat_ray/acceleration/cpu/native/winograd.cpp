// Winograd's algorithm for convolutions of 3 x 3 and their gradients; the package `winograd` says when
// and why. Images lie in memory as (B, H, W, C); C and K are multiples of 16, in float16 of 32.

#include "convolution.h"
#include "halves.h"
#include "weight_gradient.h"

namespace {

Plane halved(Plane plane) {
  return {ratio_rounded_up(plane.height, 2), ratio_rounded_up(plane.width, 2)};
}

template <class Scheme, class Format, class Products>
void convolve(const void* images, const void* kernels, const float* bias, void* outputs,
              int64_t samples, Plane from, Plane to, int64_t channels, int64_t filters,
              int threads) {
  Convolution<Scheme, Format, Products>(static_cast<const typename Format::Number*>(images),
                                        static_cast<const typename Products::Factor*>(kernels),
                                        bias, static_cast<typename Format::Number*>(outputs),
                                        samples, from, to, channels, filters)
      .run(threads);
}

}  // namespace

// Heights and widths are those of the images, not of what a stride leaves. `bias` may be null.
#define CONVOLUTIONS(name, Format, Products)                                                      \
  void transform_kernels_##name(const float* numbers, int64_t filter, int64_t channel,            \
                                int64_t row, int64_t column, float scale, void* to,               \
                                int64_t channels, int64_t filters, int stride, int threads) {     \
    const auto transform = stride == 1 ? transform_kernels<KernelToPoints, Products>              \
                                       : transform_kernels<KernelToPhases, Products>;             \
    transform({numbers, filter, channel, row, column}, scale,                                     \
              static_cast<Products::Factor*>(to), channels, filters, threads);                    \
  }                                                                                               \
  void convolve_##name(const void* images, const void* kernels, const float* bias, void* outputs, \
                       int64_t samples, int64_t height, int64_t width, int64_t channels,          \
                       int64_t filters, int stride, int threads) {                                \
    const Plane plane = {height, width};                                                          \
    if (stride == 1)                                                                              \
      convolve<Plain, Format, Products>(images, kernels, bias, outputs, samples, plane, plane,    \
                                        channels, filters, threads);                              \
    else                                                                                          \
      convolve<Strided, Format, Products>(images, kernels, bias, outputs, samples, plane,         \
                                          halved(plane), channels, filters, threads);             \
  }                                                                                               \
  void strided_gradient_##name(const void* upstream, const void* kernels, void* gradient,         \
                               int64_t samples, int64_t height, int64_t width, int64_t channels,  \
                               int64_t filters, int threads) {                                    \
    const Plane plane = {height, width};                                                          \
    convolve<StridedGradient, Format, Products>(upstream, kernels, nullptr, gradient, samples,    \
                                                halved(plane), plane, filters, channels,          \
                                                threads);                                         \
  }

#define WEIGHT_GRADIENT(name, Format, Products)                                                   \
  void weight_gradient_##name(const void* images, const void* upstream, float* gradient,          \
                              int64_t samples, int64_t height, int64_t width, int64_t channels,   \
                              int64_t filters, int threads) {                                     \
    WeightGradient<Format, Products>(static_cast<const Format::Number*>(images),                  \
                                     static_cast<const Format::Number*>(upstream), gradient,      \
                                     samples, {height, width}, channels, filters)                 \
        .run(threads);                                                                            \
  }

extern "C" {
// Without AMX, Intel's take so long for it that float32 is twice as fast, though an instruction
// multiplies half as many.
int multiplies_bfloat16_fast() { return __builtin_cpu_is("amd") != 0; }

CONVOLUTIONS(float32, Float32, Float32Products)
WEIGHT_GRADIENT(float32, Float32, Float32Products)
#ifdef __AVX512BF16__
CONVOLUTIONS(bfloat16, BFloat16, BFloat16Products)
WEIGHT_GRADIENT(bfloat16, BFloat16, BFloat16Products)
CONVOLUTIONS(bfloat16_by_float32, BFloat16, Float32Products)
WEIGHT_GRADIENT(bfloat16_by_float32, BFloat16, Float32Products)
#endif
#ifdef HAS_FLOAT16
CONVOLUTIONS(bfloat16_by_float16, BFloat16, Float16Products)
#endif
}

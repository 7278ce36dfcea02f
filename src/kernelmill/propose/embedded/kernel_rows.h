// What row kernels need beside the functions of `kernel_math.h`, in sections of the same form.

//: stream_block
// Write a block past the cache, where the machine can: the cache need not read what is about to be overwritten.
template <int64_t n> static inline void stream_block(float* to, const float* from) {
#ifdef __AVX__
  if (((uintptr_t)to & 31) == 0) {
    for (int64_t i = 0; i < n; i += 8) _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
    return;
  }
#endif
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}
// Wait until all that this thread has streamed can be read by the others.
static inline void stream_end() {
#ifdef __AVX__
  _mm_sfence();
#endif
}

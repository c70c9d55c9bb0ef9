// Instructions of time that C++ does not have, as in ptx.cuh. PTX ISA 8.0: %globaltimer (10.21), nanosleep (9.7.12.15).

// The time of the device in nanoseconds.
__device__ inline u64 device_time() {
    u64 time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
}

// For some tens of nanoseconds others may have the multiprocessor.
__device__ inline void doze() { asm volatile("nanosleep.u32 40;"); }

import { DONE, Task } from './task';
export function runCheck(t: Task): i32 {
  return DONE;
}

//! Which level a call runs at.

use super::call::{CallError, Context};
use super::principal::Principal;
use super::schema::Violation;
use crate::config::Levels;
use crate::spec::Level;

/// The strictest of the one asked for (standard unless said), the principal's floor and the tool's own. Asking for less
/// than a floor or more than a ceiling is refused, never bent.
pub(super) fn effective(
    context: &Context,
    principal: &Principal,
    tool: Option<Level>,
    levels: Levels,
) -> Result<Level, CallError> {
    let asked = match (context.sandbox_mode, context.level) {
        (Some(false), Some(level)) if level != Level::Minimal => {
            let message = format!("sandbox_mode false means minimal, not {level}");
            return Err(CallError::Request(vec![Violation::new("/context/security_level", message)]));
        }
        (Some(false), _) => Some(Level::Minimal),
        (_, level) => level,
    };
    if let (Some(asked), Some(floor)) = (asked, principal.level_floor)
        && asked < floor
    {
        return Err(CallError::Forbidden(format!("level {asked} is weaker than this principal's floor, {floor}")));
    }
    let level = [asked.or(Some(Level::Standard)), principal.level_floor, tool].into_iter().flatten().max();
    let level = level.unwrap_or(Level::Standard);
    if let Some(ceiling) = principal.level_ceiling
        && level > ceiling
    {
        return Err(CallError::Forbidden(format!("level {level} is above this principal's ceiling, {ceiling}")));
    }
    if !levels.enabled(level) {
        return Err(CallError::Forbidden(format!("level {level} is turned off on this host (levels.{level})")));
    }
    Ok(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    #[test]
    fn strictest_wins_and_floors_and_ceilings_refuse() {
        use Level::*;
        let on = Levels { minimal: true };
        let case = |mode, asked, floor, ceiling, tool, levels| {
            let context = Context { sandbox_mode: mode, level: asked, ..Context::default() };
            let mut principal = Principal::new("p", Role::User);
            (principal.level_floor, principal.level_ceiling) = (floor, ceiling);
            effective(&context, &principal, tool, levels).map_err(|e| match e {
                CallError::Forbidden(_) => 403,
                CallError::Request(_) => 400,
                other => panic!("{other}"),
            })
        };
        let off = Levels { minimal: false };
        assert_eq!(case(None, None, None, None, None, off), Ok(Standard));
        assert_eq!(case(None, None, Some(Strict), None, None, off), Ok(Strict));
        assert_eq!(case(None, Some(Standard), Some(Strict), None, None, off), Err(403));
        assert_eq!(case(None, Some(Strict), None, Some(Standard), None, off), Err(403));
        assert_eq!(case(None, Some(Standard), None, None, Some(Strict), off), Ok(Strict));
        assert_eq!(case(None, Some(Minimal), None, None, None, off), Err(403));
        assert_eq!(case(None, Some(Minimal), None, None, None, on), Ok(Minimal));
        assert_eq!(case(Some(false), None, None, None, None, on), Ok(Minimal));
        assert_eq!(case(Some(false), None, None, None, None, off), Err(403));
        assert_eq!(case(Some(false), Some(Strict), None, None, None, on), Err(400));
        assert_eq!(case(Some(false), None, Some(Standard), None, None, on), Err(403));
        assert_eq!(case(Some(true), None, None, None, None, off), Ok(Standard));
    }
}

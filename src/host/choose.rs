//! Which interface is the template, and what the guest gets of it. Pure.

use super::{
    Address, Dump, Error, Interface, LOCAL_LINK_LOCAL, Link, Network, ROUTES_MAX, Select, TableRoute, Template,
};
use super::{Resolv, local_mode};
use crate::base::{Addr, Family, PerFamily, Prefix, Route};

/// Decides from the lists alone; `resolv` stays empty.
///
/// # Errors
/// [`Error::NoInterface`] for a name in `select` that the lists do not have.
pub fn choose(dump: &Dump, select: &Select) -> Result<Network, Error> {
    let mut notices = Vec::new();
    let mut family = |f: Family, on: bool| match on {
        true => template(dump, select, f, &mut notices).map(Some),
        false => Ok(None),
    };
    let families = PerFamily::new(family(Family::V4, select.v4)?, family(Family::V6, select.v6)?);
    let our_link_local = families.v6.as_ref().map_or(LOCAL_LINK_LOCAL, |t| link_local(dump, t));
    Ok(Network { families, our_link_local, resolv: Resolv::default(), notices })
}

fn template(dump: &Dump, select: &Select, family: Family, notices: &mut Vec<String>) -> Result<Template, Error> {
    let named = select.interface.as_ref().or(select.outbound[family].as_ref());
    let link = match named {
        Some(name) => {
            Some(dump.links.iter().find(|l| l.name == *name).ok_or_else(|| Error::NoInterface(name.clone()))?)
        }
        None => preferred(dump, family, notices),
    };
    let Some(link) = link else { return Ok(local(family)) };
    let routes: Vec<&TableRoute> = routes_of(dump, family).filter(|r| r.index == link.index).collect();
    let addresses: Vec<&Address> = own(dump, family, link.index).collect();
    // An interface the user named may have nothing of this family.
    if routes.is_empty() && addresses.is_empty() {
        notices.push(format!("interface {} has no {}: local addresses are used", link.name, name_of(family)));
        return Ok(local(family));
    }
    let default = lowest_metric(routes.iter().copied().filter(|r| r.route.is_default()));
    let preferred_source = default.and_then(|r| r.preferred_source);
    let addr = guest_address(&addresses, preferred_source);
    if routes.len() > ROUTES_MAX {
        notices.push(format!("only {ROUTES_MAX} of {} {} routes are copied", routes.len(), name_of(family)));
    }
    Ok(Template {
        interface: Some(Interface { index: link.index, name: link.name.clone(), mtu: link.mtu }),
        addr,
        gateway: default.and_then(|r| r.route.gateway()).filter(|g| g.family() == family),
        addrs: copied_addresses(&addresses, addr),
        routes: copied_routes(&routes),
    })
}

/// The interface of the default route with the lowest metric; else that of the first route that leads anywhere.
fn preferred<'a>(dump: &'a Dump, family: Family, notices: &mut Vec<String>) -> Option<&'a Link> {
    let find = |r: &TableRoute| dump.links.iter().find(|l| l.index == r.index && !l.loopback);
    // Link-local prefixes lead nowhere.
    let candidates = || routes_of(dump, family).filter(|r| !r.route.dst.addr.is_link_local() && find(r).is_some());
    let defaults = || candidates().filter(|r| r.route.is_default());
    if let Some(best) = lowest_metric(defaults()) {
        let link = find(best)?;
        if defaults().any(|r| r.index != best.index) {
            let text = "several {} default routes: taking the preferred one, through {}";
            notices.push(text.replacen("{}", name_of(family), 1).replacen("{}", &link.name, 1));
        }
        return Some(link);
    }
    candidates().next().and_then(find)
}

/// The first on ties, as the kernel uses them.
fn lowest_metric<'a>(routes: impl Iterator<Item = &'a TableRoute>) -> Option<&'a TableRoute> {
    routes.min_by_key(|r| r.route.metric.unwrap_or(0))
}

/// Those of one family, without IPv6 link-local and multicast ones: the guest's kernel makes its own.
fn routes_of(dump: &Dump, family: Family) -> impl Iterator<Item = &TableRoute> {
    let kernel_made = |a: &Addr| !a.is_v4() && (a.is_link_local() || a.is_multicast());
    dump.routes.iter().filter(move |r| r.route.family() == family && !kernel_made(&r.route.dst.addr))
}

/// An interface's addresses of one family, without IPv6 link-local ones.
fn own(dump: &Dump, family: Family, index: u32) -> impl Iterator<Item = &Address> {
    dump.addresses.iter().filter(move |a| {
        a.index == index
            && a.prefix.addr.family() == family
            && (a.prefix.addr.is_v4() || !a.prefix.addr.is_link_local())
    })
}

/// The address the host itself uses as source for the default route: the route's preferred source, else the first global
/// one that is not deprecated; public before temporary, because the guest keeps it. An IPv4 host may have nothing better
/// than a link-local address.
fn guest_address(addresses: &[&Address], preferred_source: Option<Addr>) -> Option<Prefix> {
    if let Some(a) = addresses.iter().find(|a| Some(a.prefix.addr) == preferred_source) {
        return Some(a.prefix);
    }
    let rank = |a: &&&Address| (!a.global, a.deprecated, a.temporary);
    let best = addresses.iter().min_by_key(rank)?;
    (best.global || best.prefix.addr.is_v4()).then_some(best.prefix)
}

fn copied_addresses(addresses: &[&Address], first: Option<Prefix>) -> Vec<Prefix> {
    let mut copied: Vec<Prefix> = first.into_iter().collect();
    copied.extend(addresses.iter().filter(|a| !a.deprecated && Some(a.prefix) != first).map(|a| a.prefix));
    copied
}

fn copied_routes(routes: &[&TableRoute]) -> Vec<Route> {
    // The default routes survive the limit.
    let (default, other): (Vec<_>, Vec<_>) = routes.iter().partition(|r| r.route.is_default());
    default.into_iter().chain(other).take(ROUTES_MAX).map(|r: &&TableRoute| r.route.clone()).collect()
}

fn link_local(dump: &Dump, template: &Template) -> Addr {
    if let Some(gateway) = template.gateway.filter(Addr::is_link_local) {
        return gateway;
    }
    let index = template.interface.as_ref().map(|i| i.index);
    let own = |a: &&Address| Some(a.index) == index && !a.prefix.addr.is_v4() && a.prefix.addr.is_link_local();
    dump.addresses.iter().find(own).map_or(LOCAL_LINK_LOCAL, |a| a.prefix.addr)
}

fn local(family: Family) -> Template {
    let (addr, gateway) = local_mode(family);
    Template {
        interface: None,
        addr,
        gateway: Some(gateway),
        addrs: addr.into_iter().collect(),
        routes: vec![Route::default_via(gateway)],
    }
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
